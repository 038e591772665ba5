"""Predictions for a whole dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jdl.types import Batch, Loader, Predicts, Variables


def predict_all(
    predict: Predicts | Callable[[Variables, Batch], Batch],
    variables: Variables,
    data: Loader,
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> dict[str, np.ndarray]:
    """Predictions for every row of a dataset, in order and without padding, as NumPy columns.

    `predict` is an objective, or a function from variables and a batch to columns (B, ...). The
    result has its columns, and those of the batches that `columns` names; `limit` is the number of
    rows after which it stops.
    """
    function = predict.predict if isinstance(predict, Predicts) else predict
    compiled = jax.jit(function)
    parts: list[dict[str, Any]] = []
    rows = 0
    for n in range(len(data)):
        batch = data[n]
        mask = np.asarray(batch["mask"], bool) if "mask" in batch else slice(None)
        predictions = {**{name: batch[name] for name in columns}, **compiled(variables, batch)}
        parts.append({name: np.asarray(column)[mask] for name, column in predictions.items()})
        rows += len(next(iter(parts[-1].values())))
        if limit is not None and rows >= limit:
            break
    return {name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]}
