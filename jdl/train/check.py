"""The checks of a run's parts, before anything is compiled or written."""

from __future__ import annotations

from typing import Any

import jax
from flax.traverse_util import flatten_dict

from jdl.train.placement import splits
from jdl.types import Batch, Error, Key, Run


def check_run(run: Run) -> None:
    """Raises `Error` where config, data, objective and hooks do not go together."""
    if not run.config.name:
        raise Error("The config has no name: give it one, as the folder of its runs.")
    mode, _, metric = run.best.partition(" ")
    if mode not in ("max", "min") or not metric:
        raise Error(f'Run.best is "max METRIC" or "min METRIC", and not {run.best!r}.')
    if run.config.patience and run.valid is None:
        raise Error(
            "Early stopping (--patience) needs a validation set, Run(valid=...): to choose by the "
            "test set would make its result too good. Split one off: "
            "train, valid = train.split(0.9, 0.1)."
        )
    for hook in run.hooks:
        if not _is_hook(hook):
            raise Error(
                "A hook of Run(hooks=...) is a pair (every, function) with every of 1 or more, and "
                f"{hook!r} is not."
            )
    for data in splits(run).values():
        run.learner.objective.check(data.spec, data.bounds)
    names = _metric_names(run)
    if metric not in names:
        raise Error(
            f"Run.best names the metric {metric!r}, and this objective has {', '.join(names)}."
        )


def _is_hook(hook: Any) -> bool:
    return (
        isinstance(hook, tuple)
        and len(hook) == 2
        and isinstance(hook[0], int)
        and hook[0] > 0
        and callable(hook[1])
    )


def _metric_names(run: Run) -> list[str]:
    """The names of the metrics of an evaluation; a step is traced for this, and not computed."""
    learner = run.learner

    def evaluate(key: Key, batch: Batch) -> dict[str, Any]:
        state, _ = learner.step(learner.init(key, batch), batch)
        output = learner.objective.loss(learner.eval_variables(state), batch, key, False)
        metrics = {"loss": output.loss, **output.metrics}
        return {name: metric.value() for name, metric in metrics.items()}

    key = jax.eval_shape(jax.random.key, 0)
    return sorted(flatten_dict(jax.eval_shape(evaluate, key, run.train.spec), sep="/"))
