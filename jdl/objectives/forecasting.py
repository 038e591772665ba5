"""Forecasting: numbers over several horizons, judged against the naive forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jdl.objectives.regression import absolute_error, regress
from jdl.types import Array, Batch, Key, Mean, Metrics, Objective, LossOutput, Variables


def forecast(
    model: Any, scale: float = 1.0, error: Callable[[Array, Array], Array] = absolute_error
) -> Objective:
    """`regress` over horizons: x (B, T, F) of the past to y (B, horizon), by default by the mean absolute error.

    Metrics in y's unit times `scale`: mae and mse, and where the column `naive` (B, horizon) holds another forecast,
    naive_mae. The loss stays in y's unit.
    """
    inner = regress(model, error)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        out = inner.loss(variables, batch, key, train)
        found: dict[str, Any] = dict(out.metrics)
        if "naive" in batch:
            found["naive_mae"] = Mean.of(
                absolute_error(batch["naive"], batch["y"]), batch.get("mask")
            )
        powers = {"mae": scale, "naive_mae": scale, "mse": scale**2}
        scaled: Metrics = {
            name: Mean(mean.total * powers[name], mean.count) for name, mean in found.items()
        }
        return replace(out, metrics=scaled)

    return replace(inner, loss=loss)
