"""Time series forecasting: values or quantiles several steps ahead, beside the naive forecast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jdl.objectives.quantiles import Quantiles, ascending
from jdl.objectives.regression import ElementLoss, Regression, absolute_error
from jdl.types import Array, Batch, Bounds, Error, Mean, Metrics


def forecast(
    model: Any,
    scale: float = 1.0,
    loss: ElementLoss = absolute_error,
    naive_error: float | None = None,
) -> Forecasting:
    """Time series forecasting: the past x (B, T, F) to the values y (B, horizon) that follow.

    Regression, by default with the mean absolute error (MAE) as loss. Metrics: mae and mse in the
    unit of y times `scale`, such as the standard deviation that y was divided by. A column `naive`
    (B, horizon) with a baseline forecast, such as the last value or that of a week ago, adds
    naive_mae. `naive_error`, the error of the seasonal naive forecast in the training split, in the
    unit of mae, adds the mean absolute scaled error (MASE; Hyndman and Koehler, 2006): mase, and
    naive_mase of the column naive, are the errors divided by it. The loss stays in the unit of y.
    A target that is missing, NaN, counts in neither the loss nor these metrics; the functions of
    `jdl.metrics` are NaN then.
    """
    _check_naive_error(naive_error)
    return Forecasting(model, loss, scale, naive_error)


def forecast_quantiles(
    model: Any,
    levels: Sequence[float] = (0.05, 0.5, 0.95),
    scale: float = 1.0,
    naive_error: float | None = None,
) -> QuantileForecasting:
    """Probabilistic forecasting: the past x (B, T, F) to quantiles of the y (B, horizon) to come.

    Quantile regression as `quantiles` does it, with the pinball loss, for prediction intervals: the
    outermost `levels` 0.05 and 0.95 bound one of 90%. The model gives (B, horizon, levels), or
    (B, horizon * levels), which is taken as that. Crossing quantiles are sorted, in predictions and
    metrics. Metrics: those of `quantiles`, and if 0.5 is a level those of `forecast`, of the
    median, except mse; mae, pinball and width are in the unit of y times `scale`. A target that is
    missing, NaN, counts in neither the loss nor these metrics; the functions of `jdl.metrics` are
    NaN then.
    """
    _check_naive_error(naive_error)
    return QuantileForecasting(model, ascending(levels), scale, naive_error)


@dataclass(frozen=True, eq=False)
class Forecasting(Regression):
    """Time series forecasting; see `forecast`."""

    scale: float
    naive_error: float | None

    def known(self, out: Array, batch: Batch) -> Array | None:
        """The mask (B, horizon) of targets that are not missing."""
        return _known_targets(batch)["mask"]

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each step ahead."""
        return super().losses(out, _known_targets(batch))

    def predictions(self, out: Array) -> Batch:
        """The forecasts (B, horizon), also where it is 1."""
        return {"value": out}

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """The errors of the forecasts and of the naive ones, times `scale`."""
        batch = _known_targets(batch)
        scores: dict[str, Any] = dict(super().metrics(out, batch, train))
        return _in_unit(scores | _naive_mae(batch), self.scale, self.naive_error)


@dataclass(frozen=True, eq=False)
class QuantileForecasting(Quantiles):
    """Probabilistic forecasting; see `forecast_quantiles`."""

    scale: float
    naive_error: float | None

    def known(self, out: Array, batch: Batch) -> Array | None:
        """The mask (B, horizon) of targets that are not missing."""
        return self._known_targets(out, batch)["mask"]

    def losses(self, out: Array, batch: Batch) -> Array:
        """The pinball losses (B, horizon), summed over the levels."""
        return super().losses(self._by_level(out), self._known_targets(out, batch))

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """Pinball loss, coverage and width of the interval, and errors of the median."""
        out, batch = self._by_level(out), self._known_targets(out, batch)
        scores: dict[str, Any] = dict(super().metrics(out, batch, train))
        median = super().predictions(out).get("value")
        if median is not None:
            targets = batch["y"].astype(median.dtype)
            scores["mae"] = Mean.of(absolute_error(median, targets), batch["mask"])
        return _in_unit(scores | _naive_mae(batch), self.scale, self.naive_error)

    def predictions(self, out: Array) -> Batch:
        """A column (B, horizon) for each level, q0.05 and so on, and `value`, the median."""
        return super().predictions(self._by_level(out))

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the outputs are not one for each target and level."""
        outputs, levels = math.prod(shape[1:]), len(self.levels)
        if outputs % levels:
            raise Error(
                f"forecast_quantiles has {levels} levels, but the model gives {shape}: it needs "
                "horizon * levels outputs."
            )
        super().check_targets((shape[0], outputs // levels, levels), spec, bounds)

    def _known_targets(self, out: Array, batch: Batch) -> Batch:
        """`_known_targets` with y (B, horizon), also where it is (B, horizon, 1)."""
        shape = self._by_level(out).shape[:-1]
        return _known_targets({**batch, "y": batch["y"].reshape(shape)})

    def _by_level(self, out: Array) -> Array:
        return out.reshape(out.shape[0], -1, len(self.levels))


def _known_targets(batch: Batch) -> Batch:
    """The batch with a mask (B, horizon) of its targets that are known; the others, NaN, are 0.

    A NaN that is only multiplied by 0 would still make the gradient NaN.
    """
    y = jnp.asarray(batch["y"])
    known = ~jnp.isnan(y)
    if "mask" in batch:
        mask = batch["mask"]  # (B,), or (B, horizon) of what was known already
        known &= mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))
    return {**batch, "y": jnp.where(jnp.isnan(y), 0, y), "mask": known}


def _naive_mae(batch: Batch) -> dict[str, Mean]:
    """The error of the forecasts in the column `naive`, where there is one."""
    if "naive" not in batch:
        return {}
    naive = batch["naive"].reshape(batch["y"].shape)
    return {"naive_mae": Mean.of(absolute_error(naive, batch["y"]), batch.get("mask"))}


def _in_unit(scores: dict[str, Mean], scale: float, naive_error: float | None) -> Metrics:
    """Errors and widths times `scale`, and the scaled errors (MASE)."""
    factors = dict.fromkeys(("mae", "naive_mae", "pinball", "width"), scale) | {"mse": scale**2}
    made = {name: Mean(m.total * factors.get(name, 1), m.count) for name, m in scores.items()}
    if naive_error is not None:
        for error, scaled in (("mae", "mase"), ("naive_mae", "naive_mase")):
            if error in made:
                made[scaled] = Mean(made[error].total / naive_error, made[error].count)
    return dict(made)


def _check_naive_error(naive_error: float | None) -> None:
    if naive_error is not None and not 0 < naive_error < math.inf:
        raise Error(
            f"naive_error must be above 0, not {naive_error}: it is 0 where the "
            "training data repeat exactly, or are not longer than a season, and no scaled error "
            "(MASE) is defined then: leave naive_error out."
        )
