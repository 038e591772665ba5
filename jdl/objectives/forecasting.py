"""Time series forecasting: regression over several horizons, compared with the naive forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jdl.objectives.regression import ElementLoss, Regression, absolute_error
from jdl.types import Array, Batch, Mean, Metrics


def forecast(model: Any, scale: float = 1.0, loss: ElementLoss = absolute_error) -> Forecasting:
    """Time series forecasting: the past x (B, T, F) to the values y (B, horizon) that follow.

    Regression, by default with the mean absolute error (MAE) as loss. Metrics: mae and mse in the
    unit of y times `scale`, such as the standard deviation that y was divided by. A column `naive`
    (B, horizon) with a baseline forecast, such as the last value or that of a week ago, adds
    naive_mae. The loss stays in the unit of y.
    """
    return Forecasting(model, loss, scale)


@dataclass(frozen=True, eq=False)
class Forecasting(Regression):
    """Time series forecasting; see `forecast`."""

    scale: float

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """The errors of the forecasts and of the naive ones, times `scale`."""
        scores: dict[str, Any] = dict(super().metrics(out, batch, train))
        if "naive" in batch:
            errors = absolute_error(batch["naive"], batch["y"])
            scores["naive_mae"] = Mean.of(errors, batch.get("mask"))
        factors = {"mae": self.scale, "naive_mae": self.scale, "mse": self.scale**2}
        return {name: Mean(m.total * factors[name], m.count) for name, m in scores.items()}
