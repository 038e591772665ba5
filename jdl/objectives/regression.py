"""Regression: squared, absolute or Huber error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.objectives import model_call as call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)


def absolute_error(predictions: Array, targets: Array) -> Array:
    """|predictions - targets|, element by element."""
    return jnp.abs(predictions - targets)


def regress(model: Any, error: Callable[[Array, Array], Array] = optax.squared_error) -> Objective:
    """Numbers: x (B, ...) to predictions (B, ...), against y of the same shape; (B,) will do for (B, 1).

    `error(predictions, targets)` works element by element: `optax.squared_error` (MSE), `absolute_error` (MAE),
    `optax.huber_loss`. Metrics, whatever the loss: mse and mae, in y's unit.
    """

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        out, model_state = call.apply(model, variables, call.from_x(batch), batch, key, train)
        targets, mask = batch["y"].reshape(out.shape).astype(out.dtype), batch.get("mask")
        found: Metrics = {
            "mse": Mean.of(optax.squared_error(out, targets), mask),
            "mae": Mean.of(absolute_error(out, targets), mask),
        }
        return LossOutput(Mean.of(error(out, targets), mask), found, model_state)

    def predict(variables: Variables, batch: Batch) -> Batch:
        out, _ = call.apply(model, variables, call.from_x(batch), batch, jax.random.key(0), False)
        return {"value": out}

    def check(batch: Batch, bounds: Bounds) -> None:
        out = call.output_shape(model, batch)
        target = batch["y"].shape if "y" in batch else None
        if target not in (out, out[:-1] if out[-1] == 1 else out):
            raise Error(
                f"The model predicts {out} for a batch, and the targets y are {target}: make them equal."
            )

    return Objective(partial(call.init_from_x, model), loss, predict, check)
