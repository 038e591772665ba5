"""Dropout and stochastic depth, with the same masks on any number of devices."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers.apply_layers import make_key
from jdl.layers.batch_axis import sample_rows

ROW_DROPOUT = "row_dropout"
"""The random stream of dropout masks by row, whose key is the same on all devices."""


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014): in training, elements are zero with probability `rate`.

    The others are scaled up by 1 / (1 - rate). With `whole_rows`, whole rows of the batch are
    dropped: on a residual branch that is stochastic depth, or drop path (Huang et al., 2016). The
    mask is drawn row by row, the same however the batch is divided: from the stream `ROW_DROPOUT`,
    or from Flax's "dropout" where that alone is given.
    """

    rate: float
    whole_rows: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, ...) to the same shape."""
        if not train or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1) if self.whole_rows else x.shape
        key = make_key(self, ROW_DROPOUT, "dropout")
        keep = sample_rows(partial(_bernoulli, 1 - self.rate), key, shape)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


def _bernoulli(p: float, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bernoulli(key, p, shape)
