"""Evaluation of a trained run on its own data."""

from __future__ import annotations

from jdl.inspect.restore import TrainedRun
from jdl.metrics import scalars
from jdl.train.evaluate import evaluator


def evaluate(trained: TrainedRun) -> dict[str, dict[str, float]]:
    """The metrics of a checkpoint on the run's validation and test data, by split.

    The values of `Run.score`, if it is set, are under "score".
    """
    run = trained.run
    splits = {"valid": run.valid, "test": run.test}
    metrics = {
        name: scalars(evaluator(run.learner, data)(trained.state))
        for name, data in splits.items()
        if data is not None
    }
    if run.score:
        metrics["score"] = run.score(trained.variables)
    return metrics
