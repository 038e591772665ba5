"""Batch prediction: predictions for all rows of a dataset."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jdl.types import Batch, Error, Loader, Objective, Predicts, Variables

Columns = dict[str, np.ndarray]  # by name, with one entry per row


def predict_all(
    objective: Objective,
    variables: Variables,
    data: Loader,
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> Columns:
    """Batch prediction: an objective's predictions for all rows of an epoch, as NumPy columns.

    The result has the predictions (label, probability, code, ...) and the `columns` of the data
    with these names, such as "y". Padding rows are left out; with `limit` only the first rows are
    returned. Raises `Error` if the objective does not predict.
    """
    if not isinstance(objective, Predicts):
        raise Error(
            f"The objective {type(objective).__name__} predicts nothing: it has no method predict."
        )
    return map_rows(objective.predict, variables, data, columns, limit)


def map_rows(
    function: Callable[[Variables, Batch], Batch],
    variables: Variables,
    data: Loader | Sequence[Batch],
    columns: Sequence[str] = (),
    limit: int | None = None,
    replicas: Sequence[Variables] = (),
) -> Columns:
    """The columns that `function(variables, batch)` gives for all rows of an epoch.

    Like `predict_all`, for any pure function of a batch, such as the features of a layer. The
    function is compiled. With `replicas`, the variables on several devices, these take the batches
    in turn, all at once.
    """
    apply, copies = jax.jit(function), replicas or [variables]
    waiting: deque[tuple[Batch, Batch]] = deque()  # one batch for each device
    parts, rows = [], 0
    for i in range(len(data) + len(copies) - 1):
        if i < len(data):
            batch = data[i]
            out = apply(copies[i % len(copies)], batch)
            waiting.append(({name: batch[name] for name in columns} | out, batch))
        if i < len(copies) - 1:
            continue
        if not waiting:
            break
        parts.append(_real_rows(*waiting.popleft()))
        rows += len(next(iter(parts[-1].values())))
        if limit is not None and rows >= limit:
            break
    return {name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]}


def _real_rows(out: Batch, batch: Batch) -> Columns:
    """The columns without padding rows, as NumPy arrays."""
    mask = np.asarray(batch["mask"]).astype(bool) if "mask" in batch else slice(None)
    return {name: np.asarray(column)[mask] for name, column in out.items()}
