"""Correlations of predicted values with targets: Pearson's and Spearman's."""

from __future__ import annotations

from typing import Any

import numpy as np

from jdl.metrics.columns import Columns, values
from jdl.metrics.moments import Moments
from jdl.metrics.rows import Rows


def pearson(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Moments:
    """Pearson correlation of the predicted values with the targets, from -1 to 1.

    NaN where all of either are equal; of several targets a row it is the mean.
    """
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    return Moments.of(_pearson, targets, predicted, weight)


def spearman(predictions: Columns, batch: Columns, target: str = "y") -> Rows:
    """Spearman rank correlation: the Pearson correlation of ranks; equal values share their rank.

    1 if the predictions rank the rows as the targets do. NaN where all of either are equal, as in
    SciPy; of several targets a row it is the mean. Exact: see `Rows` for the memory.
    """
    predicted, targets, mask = values(predictions, batch, target, None)
    return Rows.of(_spearman, predicted, targets, mask=mask)


def _pearson(moments: Moments) -> Any:
    variances = moments.comoment[0, 0] * moments.comoment[1, 1]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return (moments.comoment[0, 1] / variances**0.5).mean()


def _spearman(predicted: np.ndarray, targets: np.ndarray) -> float:
    pairs = zip(predicted.T, targets.T, strict=True)
    return float(np.mean([rank_correlation(*pair) for pair in pairs]))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman rank correlation of two columns (N,); NaN where all of either are equal."""
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    a, b = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    variances = (a @ a) * (b @ b)
    return float(a @ b / variances**0.5) if variances else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, from 1; that of equal values is their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
