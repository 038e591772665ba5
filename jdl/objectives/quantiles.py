"""Quantile regression at several levels: prediction intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jdl.metrics.columns import real_values
from jdl.objectives.regression import quantile_loss
from jdl.objectives.supervised import Supervised, given, target_column
from jdl.types import Array, Batch, Bounds, Error, Mean, Metrics


def quantiles(
    model: Any, levels: Sequence[float] = (0.1, 0.5, 0.9), row_weights: str | None = None
) -> Quantiles:
    """Quantile regression (Koenker and Bassett, 1978), for prediction intervals.

    x (B, ...) to predictions (B, L), one for each of the ascending `levels`, for targets y (B,);
    for targets (B, H) to predictions (B, H, L). The loss is the pinball loss, summed over
    the levels. `row_weights` names a column (B,) of sample weights; the loss is divided by their
    sum, and metrics count all rows equally. Quantiles that cross are sorted (Chernozhukov et al.,
    2010), which never raises the pinball loss: in predictions and metrics, not in the loss.
    Metrics: pinball, the mean over the levels; coverage, the share of targets within the outermost
    quantiles (for 0.1 and 0.9 it should be 0.8); width, the mean distance of these two: of two
    models with the right coverage the one with narrower intervals is better; and crossing, the
    share of targets whose quantiles had to be sorted.
    """
    return Quantiles(model, ascending(levels), row_weights=row_weights)


def ascending(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels of quantiles, which must ascend between 0 and 1; raises `Error` if not."""
    levels = tuple(float(level) for level in levels)
    if not levels or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
        raise Error(f"levels must ascend between 0 and 1, such as (0.1, 0.5, 0.9), not {levels}.")
    return levels


@dataclass(frozen=True, eq=False)
class Quantiles(Supervised):
    """Quantile regression; see `quantiles`."""

    levels: tuple[float, ...]

    def losses(self, out: Array, batch: Batch) -> Array:
        """The pinball losses, summed over the levels."""
        return self._pinball(out, _targets(out, batch))

    def known(self, out: Array, batch: Batch) -> Array | None:
        """The mask of real rows, or of their real time steps where y has one for each step of x."""
        return real_values(batch, batch["y"].shape)

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """Pinball loss, coverage and width of the outer interval, and crossings."""
        targets, mask, in_order = _targets(out, batch), self.known(out, batch), jnp.sort(out, -1)
        within = (in_order[..., 0] <= targets) & (targets <= in_order[..., -1])
        crossing = (out[..., 1:] < out[..., :-1]).any(-1)
        return {
            "pinball": Mean.of(self._pinball(in_order, targets) / len(self.levels), mask),
            "coverage": Mean.of(within, mask),
            "width": Mean.of(in_order[..., -1] - in_order[..., 0], mask),
            "crossing": Mean.of(crossing, mask),
        }

    def predictions(self, out: Array) -> Batch:
        """A column for each level, q0.1 and so on, and `value`, the median, if it is a level."""
        in_order = jnp.sort(out, -1)
        columns = {f"q{level:g}": in_order[..., n] for n, level in enumerate(self.levels)}
        return columns | ({"value": columns["q0.5"]} if 0.5 in self.levels else {})

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the outputs are not one for each target and level."""
        if len(shape) < 2 or shape[-1] != len(self.levels):
            raise Error(
                f"quantiles has {len(self.levels)} levels, but the model gives {shape}: it needs "
                "one output for each level, in the last axis."
            )
        needed = f"The targets y must be {shape[:-1]}, as the model gives {shape}"
        targets = target_column(spec, needed)
        if targets.shape not in (shape[:-1], (*shape[:-1], 1)):
            raise Error(f"{needed}, but they are {given(targets)}.")

    def _pinball(self, out: Array, targets: Array) -> Array:
        losses = [quantile_loss(q)(out[..., n], targets) for n, q in enumerate(self.levels)]
        return jnp.stack(losses).sum(0)


def _targets(out: Array, batch: Batch) -> Array:
    return batch["y"].reshape(out.shape[:-1]).astype(out.dtype)
