"""Predictions for all rows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jdl.types import Batch, Error, Loader, Objective, Predicts, Variables

Columns = dict[str, np.ndarray]  # by name, one entry a row


def predict_all(
    objective: Objective,
    variables: Variables,
    data: Loader,
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> Columns:
    """Batch prediction: what an objective predicts for all rows of an epoch, as NumPy columns.

    Besides the predictions (label, probability, code, ...) it has the `columns` of the data of
    these names, such as "y". Padding is left out; `limit` is the most rows to return, the first
    ones. Raises `Error` where the objective does not predict.
    """
    if not isinstance(objective, Predicts):
        raise Error(f"The objective {type(objective).__name__} predicts nothing.")
    return map_rows(objective.predict, variables, data, columns, limit)


def map_rows(
    function: Callable[[Variables, Batch], Batch],
    variables: Variables,
    data: Loader,
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> Columns:
    """The columns that `function(variables, batch)` gives for all rows of an epoch.

    As `predict_all`, for any pure function of a batch: the features of a layer, say. It is
    compiled.
    """
    apply, parts, rows = jax.jit(function), [], 0
    for i in range(len(data)):
        batch = data[i]
        out = {name: batch[name] for name in columns} | apply(variables, batch)
        part = _real_rows(out, batch)
        parts.append(part)
        rows += len(next(iter(part.values())))
        if limit is not None and rows >= limit:
            break
    return {name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]}


def _real_rows(out: Batch, batch: Batch) -> Columns:
    """The columns without padding, on the host."""
    mask = np.asarray(batch["mask"]).astype(bool) if "mask" in batch else slice(None)
    return {name: np.asarray(column)[mask] for name, column in out.items()}
