"""The metrics of each row of a run's evaluation data, where a metric is a mean over rows."""

from __future__ import annotations

from itertools import islice
from typing import Any

import jax
import numpy as np

from jdl.inspect.restore import TrainedRun
from jdl.keys import stream
from jdl.metrics import scalars
from jdl.train.evaluate import evaluator
from jdl.types import Batch, Error, Mean

TOLERANCE = 1e-3  # relative, of the mean over the rows from the metric of whole batches


def metrics_by_row(trained: TrainedRun, split: str = "test") -> dict[str, np.ndarray]:
    """The loss and the metrics of each row (N,) of the evaluation data, in the data's order.

    Each row is evaluated as a batch of its own. Left out are metrics that are no plain mean over
    the rows: ROC AUC, a mean over tokens where rows have more and fewer of them, a contrastive loss
    against the other rows, the loss of a model that carries its state from batch to batch. Raises
    `Error` where the run has no such split.
    """
    run = trained.run
    data = {"valid": run.valid, "test": run.test}.get(split)
    if data is None:
        raise Error(f"{run.config.name} has no split {split!r} to evaluate.")
    key = stream(trained.state.key, "evaluate", trained.state.step)

    def of_row(row: Batch) -> dict[str, Mean]:
        batch = jax.tree.map(lambda column: column[None], row)
        output = trained.objective.loss(trained.variables, batch, key, False)
        metrics = {"loss": output.loss, **output.metrics}
        return {name: one for name, one in metrics.items() if isinstance(one, Mean)}

    @jax.jit
    def of_batch(raw: Any, i: Any) -> tuple[dict[str, Mean], Any]:
        batch = data.batch(raw, i)
        return jax.vmap(of_row)(batch), batch.get("mask")

    parts = []
    for i, raw in enumerate(islice(data.read(), len(data))):
        metrics, mask = jax.device_get(of_batch(raw, np.int32(i)))
        keep = slice(None) if mask is None else mask.reshape(len(mask), -1).any(1)
        parts.append({name: (one.total[keep], one.count[keep]) for name, one in metrics.items()})
    whole = scalars(evaluator(run.learner, data)(trained.state))
    found = {}
    for name in parts[0]:
        total, count = (np.concatenate([part[name][n] for part in parts]) for n in (0, 1))
        if not (count == count[0]).all() or not count[0]:
            continue
        values = total.astype(np.float64) / count
        if np.isclose(values.mean(), whole[name], rtol=TOLERANCE, atol=TOLERANCE**2):
            found[name] = values
    return found
