"""Normalisation that padding does not disturb."""

import flax.linen as nn
import jax


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) whose statistics come from the rows where `mask` (B,) holds.

    Where no row holds, all are used, so that the output stays finite; `descent` then keeps the old statistics.
    """

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, ..., C) to the same shape."""
        if mask is not None:
            real = mask.astype(bool)
            mask = (real | ~real.any()).reshape((-1,) + (1,) * (x.ndim - 1))
        return nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="norm")(x, mask=mask)
