"""Dropout whose masks are the same however a batch is divided among devices."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers.batch_axis import sample_rows


class Dropout(nn.Module):
    """Sets elements to zero with probability `rate` in training, and scales the others up (Srivastava et al., 2014)."""

    rate: float
    whole_rows: bool = (
        False  # a row of the batch stays or falls as one: stochastic depth (Huang et al., 2016)
    )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, ...) to the same shape."""
        if not train or self.rate == 0:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1) if self.whole_rows else x.shape
        kept = sample_rows(partial(_bernoulli, 1 - self.rate), self.make_rng("dropout"), shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros_like(x))


def _bernoulli(share: float, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bernoulli(key, share, shape)
