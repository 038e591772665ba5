"""Means, variances and the covariance of two columns, merged without loss of precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jdl.metrics.columns import ratio
from jdl.types import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """A metric that is a function of the means and (co)variances of two columns (B, K).

    Merged as by Chan, Golub and LeVeque (1983). The mean is `shift + offset`, where the shift is a
    value of the column itself: so that the variance keeps its precision where the mean is large,
    and is exactly 0 where all values are equal.
    """

    function: Callable[[Moments], Any] = field(metadata={"static": True})
    rows: Array  # ()
    weight: Array  # (): the rows, or the sum of their weights
    shift: Array  # (2, K)
    offset: Array  # (2, K): the mean of column - shift
    comoment: Array  # (2, 2, K): the sums of products of deviations from the means

    @classmethod
    def of(
        cls, function: Callable[[Moments], Any], a: Array, b: Array, weight: Array | None
    ) -> Moments:
        """The moments of the columns a and b (B, K), with weights (B,)."""
        columns = jnp.stack([a, b]).astype(jnp.float32)
        weight = jnp.ones(len(a)) if weight is None else weight.astype(jnp.float32)
        real, total = weight != 0, weight.sum()
        shift = columns[:, real.argmax()]  # of the first row that counts
        shifted = jnp.where(real[None, :, None], columns - shift[:, None], 0)
        offset = ratio((weight[None, :, None] * shifted).sum(1), total[None, None])
        deviations = jnp.where(real[None, :, None], shifted - offset[:, None], 0)
        products = deviations[:, None] * deviations[None]
        comoment = (weight[None, None, :, None] * products).sum(2)
        shift = jnp.where(real.any(), shift, 0)
        return cls(function, real.sum().astype(jnp.float32), total, shift, offset, comoment)

    def __add__(self, other: Moments) -> Moments:
        total = self.weight + other.weight
        delta = (other.shift - self.shift) + (other.offset - self.offset)
        products = delta[:, None] * delta[None]
        return Moments(
            self.function,
            self.rows + other.rows,
            total,
            self.shift,
            self.offset + delta * ratio(other.weight, total),
            self.comoment + other.comoment + products * ratio(self.weight * other.weight, total),
        )

    def value(self) -> Any:
        """The function of the moments."""
        return self.function(self)
