"""Dilated causal convolution in one dimension, as one product of two matrices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers.dense import Dense


class CausalConv(nn.Module):
    """Causal convolution over time, dilated (van den Oord et al., 2016): no output sees the future.

    The output at step t is a dense layer of the steps t, t - dilation, and so on, `kernel` of them,
    with zeros before the first step. The shifted series stand side by side in one product, because
    XLA's CPU backend is slow at dilated convolutions.
    """

    features: int
    kernel: int = 3
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (B, T, C) to (B, T, features)."""
        steps, last = x.shape[1], (self.kernel - 1) * self.dilation
        padded = jnp.pad(x, ((0, 0), (last, 0), (0, 0)))
        shifted = [padded[:, n * self.dilation :][:, :steps] for n in range(self.kernel)]
        dense = Dense(self.features, kernel_init=nn.initializers.he_normal(), name="taps")
        return dense(jnp.concatenate(shifted, -1))
