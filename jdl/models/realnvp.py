"""RealNVP: a normalizing flow, a stack of affine coupling layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import Error

Activation = Callable[[jax.Array], jax.Array]


class RealNVP(nn.Module):
    """RealNVP (Dinh et al., 2017): a normalizing flow, an invertible map from data x to noise z.

    x (B, ...) gives z of the same shape and the log-determinant log |det dz/dx| (B,); `inverse`
    gives x from z. Rows are flattened. The elements that a coupling layer keeps alternate: the
    black squares of a checkerboard, the white ones, the second half of the row, the first half. A
    fresh model is the identity.
    """

    couplings: int = 8
    hidden: Sequence[int] = (128, 128)  # of each coupling layer's network
    activation: Activation = nn.relu
    log_scale_bound: float = 2.0

    def setup(self) -> None:
        """The coupling layers, in the order from x to z."""
        settings = (self.hidden, self.activation, self.log_scale_bound)
        self.layers = [AffineCoupling(*settings) for _ in range(self.couplings)]

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x (B, ...) to z of the same shape, and the log-determinant (B,) of the map."""
        z, log_det = x.reshape(x.shape[0], -1), jnp.zeros(x.shape[0], jnp.float32)
        for layer, kept in zip(self.layers, self._masks(x), strict=True):
            z, of_layer = layer(z, kept)
            log_det += of_layer
        return z.reshape(x.shape), log_det

    def inverse(self, z: jax.Array) -> jax.Array:
        """z (B, ...) to x of the same shape."""
        x = z.reshape(z.shape[0], -1)
        for layer, kept in reversed(list(zip(self.layers, self._masks(z), strict=True))):
            x = layer.inverse(x, kept)
        return x.reshape(z.shape)

    def _masks(self, x: jax.Array) -> list[jax.Array]:
        """What each coupling layer keeps of a flattened row: 1 or 0 for each element, (1, D)."""
        shape = x.shape[1:]
        size = math.prod(shape)
        if size < 2:
            raise Error(
                f"Rows of shape {shape} have {size} element, and a coupling layer needs two: one "
                "to keep, and one to change."
            )
        checkerboard = np.indices(shape).sum(0).reshape(1, size) % 2
        second_half = (np.arange(size) >= size // 2).reshape(1, size)
        cycle = (checkerboard, 1 - checkerboard, second_half, ~second_half)
        return [jnp.asarray(cycle[n % len(cycle)], x.dtype) for n in range(self.couplings)]


class AffineCoupling(nn.Module):
    """Affine coupling layer (Dinh et al., 2017): kept elements scale and shift the others.

    The network, dense layers of the widths `hidden`, reads the elements that are kept (`kept` is 1)
    and gives a log-scale and a shift for each other (0). Log-scales are within `log_scale_bound` of
    0, by a tanh, so that no scale overflows or comes too near 0 to be inverted. The last layer
    begins at zero: a fresh coupling is the identity.
    """

    hidden: Sequence[int] = (128, 128)
    activation: Activation = nn.relu
    log_scale_bound: float = 2.0

    def __call__(self, x: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x (B, D) to the same shape, and the log-determinant (B,); `kept` is (1, D)."""
        log_scale, shift = self._log_scale_and_shift(x, kept)
        return x * jnp.exp(log_scale) + shift, log_scale.sum(-1, dtype=jnp.float32)

    def inverse(self, y: jax.Array, kept: jax.Array) -> jax.Array:
        """The x (B, D) of which the layer makes y (B, D)."""
        log_scale, shift = self._log_scale_and_shift(y, kept)
        return (y - shift) * jnp.exp(-log_scale)

    @nn.compact
    def _log_scale_and_shift(self, x: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The log-scale and the shift of each element (B, D): 0 for those that are kept."""
        features = x * kept
        for width in self.hidden:
            dense = nn.Dense(width, kernel_init=nn.initializers.he_normal())
            features = self.activation(dense(features))
        out = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros, name="out")(features)
        log_scale, shift = jnp.split(out, 2, -1)
        bound = self.log_scale_bound
        return bound * jnp.tanh(log_scale / bound) * (1 - kept), shift * (1 - kept)
