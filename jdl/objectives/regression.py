"""Regression: mean squared error (MSE), mean absolute error (MAE) or Huber loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jdl.objectives import model_call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Variables,
)

ElementLoss = Callable[[Array, Array], Array]  # (predictions (...), targets (...)) -> losses (...)


def absolute_error(predictions: Array, targets: Array) -> Array:
    """Absolute error (its mean is the MAE): |predictions - targets|, element by element."""
    return jnp.abs(predictions - targets)


def quantile_loss(quantile: float) -> ElementLoss:
    """Quantile loss (pinball loss; Koenker and Bassett, 1978): its minimum is at this quantile.

    q * (y - p) where the prediction p is below the target y, and (1 - q) * (p - y) above it.
    """
    if not 0 < quantile < 1:
        raise Error(f"A quantile lies between 0 and 1, and {quantile} does not.")

    def loss(predictions: Array, targets: Array) -> Array:
        errors = targets - predictions
        return jnp.maximum(quantile * errors, (quantile - 1) * errors)

    return loss


def poisson_loss(log_rates: Array, targets: Array) -> Array:
    """Poisson negative log-likelihood of counts y, without log y!: exp(p) - y * p.

    The predictions p are the logs of the rates (Poisson regression).
    """
    return jnp.exp(log_rates) - targets * log_rates


def absolute_percentage_error(predictions: Array, targets: Array) -> Array:
    """Absolute percentage error as a share (its mean is the MAPE): |p - y| / |y|, for y not 0."""
    return jnp.abs(predictions - targets) / jnp.abs(targets)


def squared_log_error(predictions: Array, targets: Array) -> Array:
    """Squared logarithmic error (its mean is the MSLE): (log(1 + p) - log(1 + y))^2, above -1."""
    return jnp.square(jnp.log1p(predictions) - jnp.log1p(targets))


def regress(model: Any, loss: ElementLoss = optax.squared_error) -> Regression:
    """Regression by the mean squared error (MSE) or another loss.

    x (B, ...) to predictions (B, ...). The targets y have the shape of the predictions, or (B,) for
    (B, 1). `loss(predictions, targets)` works element by element: `optax.squared_error`
    (MSE), `absolute_error` (MAE), `optax.huber_loss` (Huber, 1964), `quantile_loss(0.9)`,
    `poisson_loss`. Metrics, whatever the loss: mse and mae, in the unit of y.
    """
    return Regression(model, loss)


@dataclass(frozen=True, eq=False)
class Regression(model_call.ModelObjective):
    """Regression; see `regress`."""

    element_loss: ElementLoss

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean loss over the elements of y, and the metrics."""
        inputs = model_call.model_inputs(self.model, batch)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        targets, mask = batch["y"].reshape(out.shape).astype(out.dtype), batch.get("mask")
        scores: Metrics = {
            "mse": Mean.of(optax.squared_error(out, targets), mask),
            "mae": Mean.of(absolute_error(out, targets), mask),
        }
        return LossOutput(Mean.of(self.element_loss(out, targets), mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The predicted values (B, ...)."""
        return {"value": model_call.evaluate(self.model, variables, batch)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the targets do not have the shape of the model's output."""
        shape = model_call.output_shape(self.model, spec)
        target = spec["y"].shape if "y" in spec else None
        if target not in (shape, shape[:-1] if shape[-1] == 1 else shape):
            raise Error(
                f"The model's predictions are of shape {shape}, and the targets y of {target}: "
                "make them equal."
            )
