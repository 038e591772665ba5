"""Regression metrics: MAE, RMSE, MAPE, median absolute error, R^2, explained variance."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jdl.metrics.columns import Columns, values
from jdl.metrics.moments import Moments
from jdl.metrics.rows import Rows, Sums
from jdl.types import Mean

SMALLEST = float(np.finfo(np.float64).eps)  # scikit-learn's least |y| of a percentage error


def mae(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Mean:
    """MAE, mean absolute error: the mean of |predicted value - target|, in the unit of y."""
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    return Mean.of(jnp.abs(predicted - targets), weight)


def rmse(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Sums:
    """RMSE, root mean squared error, in the unit of y; of several targets a row the mean."""
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    weight = jnp.ones(len(targets)) if weight is None else weight.astype(jnp.float32)
    squares = jnp.square(predicted - targets)
    squares = jnp.where(weight[:, None] != 0, squares * weight[:, None], 0)
    return Sums(_root_mean, {"squares": squares.sum(0), "count": weight.sum()})


def mape(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Mean:
    """MAPE, mean absolute percentage error, as a share: mean of |predicted - target| / |target|.

    A target of 0 makes it enormous, as in scikit-learn: it is divided by 2.2e-16.
    """
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    return Mean.of(jnp.abs(predicted - targets) / jnp.abs(targets).clip(SMALLEST), weight)


def median_absolute_error(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Rows:
    """Median absolute error, which outliers do not change; of several targets a row the mean.

    Exact: see `Rows` for the memory.
    """
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    columns = (jnp.abs(predicted - targets), *(() if row_weights is None else (weight,)))
    return Rows.of(_median, *columns, mask=weight)


def r2(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Moments:
    """R^2, coefficient of determination: 1 - squared error / squared deviation of y from its mean.

    1 is best, 0 that of the mean of y as prediction. Where all targets are equal it is 1 if all
    predictions are right, else 0; of fewer than two rows it is NaN; of several targets a row it is
    the mean: as in scikit-learn. Also exact where the mean of y is large.
    """
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    return Moments.of(_r2, targets, targets - predicted, weight)


def explained_variance(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Moments:
    """Explained variance: 1 - variance of the error / variance of y; `r2` but for a constant error.

    Where all targets are equal it is 1 if the error is constant, else 0, as in scikit-learn.
    """
    predicted, targets, weight = values(predictions, batch, target, row_weights)
    return Moments.of(_explained_variance, targets, targets - predicted, weight)


def _root_mean(squares: Any, count: Any) -> Any:
    with np.errstate(invalid="ignore"):  # of no rows at all it is NaN
        return ((squares / count) ** 0.5).mean()


def _median(errors: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean over the columns (N, K) of the weighted median: half of the weight lies above it."""
    weights = np.ones(len(errors)) if weights is None else weights.astype(np.float64)
    medians = []
    for column in errors.T.astype(np.float64):
        order = np.argsort(column)
        column, cumulative = column[order], np.cumsum(weights[order])
        half = cumulative[-1] / 2
        n = np.searchsorted(cumulative, half)
        exactly = cumulative[n] - half <= SMALLEST  # then it lies between two rows
        medians.append(
            (column[n] + column[min(n + 1, len(column) - 1)]) / 2 if exactly else column[n]
        )
    return float(np.mean(medians))


def _r2(moments: Moments) -> Any:
    mean_error = moments.shift[1] + moments.offset[1]
    squares = moments.comoment[1, 1] + moments.weight * mean_error**2
    explained = _one_minus(squares, moments.comoment[0, 0]).mean()
    enough = (moments.rows > 1).astype(explained.dtype)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return explained + 0 / enough  # NaN of fewer than two rows


def _explained_variance(moments: Moments) -> Any:
    return _one_minus(moments.comoment[1, 1], moments.comoment[0, 0]).mean()


def _one_minus(part: Any, whole: Any) -> Any:
    """1 - part / whole; where the whole is 0, 1 if the part is too, else 0."""
    constant = (whole == 0).astype(whole.dtype)
    share = part / (whole + constant)
    return 1 - (1 - constant) * share - constant * (part != 0).astype(whole.dtype)
