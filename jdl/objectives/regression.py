"""Regression: mean squared error (MSE), mean absolute error (MAE) or Huber loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jdl.metrics.columns import real_values
from jdl.objectives.supervised import Supervised
from jdl.types import Array, Batch, Bounds, Error, Mean, Metrics

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


def regress(
    model: Any, loss: ElementLoss = optax.squared_error, row_weights: str | None = None
) -> Regression:
    """Regression by the mean squared error (MSE) or another loss.

    x (B, ...) to predictions (B, ...). The targets y have the shape of the predictions, or (B,) for
    (B, 1). Predictions are in the column `value`, of the shape of y; without a y, it is (B,) of
    (B, 1). Of targets (B, T, ...) for each step of x (B, T, ...), those from the column `length` on
    are padding, which neither loss nor metrics count. Five targets a row beside five steps cannot
    be told from a target for each step: leave out `length`, or give y and the predictions one more
    axis, (B, 1, 5).

    `loss(predictions, targets)` works element by element: `optax.squared_error` (MSE),
    `absolute_error` (MAE), `optax.huber_loss` (Huber, 1964), `quantile_loss(0.9)`, `poisson_loss`.
    `row_weights` names a column (B,) of sample weights, which multiply the loss; it is divided by
    their sum. Metrics, whatever the loss: mse and mae, in the unit of y, of all rows equally.
    """
    return Regression(model, loss, row_weights=row_weights)


@dataclass(frozen=True, eq=False)
class Regression(Supervised):
    """Regression; see `regress`."""

    element_loss: ElementLoss

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each element of y."""
        return self.element_loss(out, _targets(out, batch))

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """The mean squared and the mean absolute error."""
        targets, mask = _targets(out, batch), self.known(out, batch)
        return {
            "mse": Mean.of(optax.squared_error(out, targets), mask),
            "mae": Mean.of(absolute_error(out, targets), mask),
        }

    def known(self, out: Array, batch: Batch) -> Array | None:
        """The mask of real rows, or of their real time steps where y has one for each step of x."""
        return real_values(batch, batch["y"].shape)

    def predictions(self, out: Array) -> Batch:
        """The predicted values (B, ...); (B,) where there is one a row."""
        return {"value": out[:, 0] if out.ndim == 2 and out.shape[1] == 1 else out}

    def predictions_like(self, out: Array, y: Array | None) -> Batch:
        """The predicted values, of the shape of y if there is one: (B,) less (B, 1) is (B, B)."""
        made = self.predictions(out)
        if y is None or y.size != made["value"].size:
            return made
        return {"value": made["value"].reshape(y.shape)}

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the targets do not have the shape of the model's output."""
        target = spec["y"].shape if "y" in spec else None
        if target not in (shape, shape[:-1] if shape[-1] == 1 else shape):
            raise Error(
                f"The model's predictions are of shape {shape}, and the targets y of {target}: "
                "make them equal."
            )


def _targets(out: Array, batch: Batch) -> Array:
    return batch["y"].reshape(out.shape).astype(out.dtype)
