"""Autoencoders and variational autoencoders (VAE), of dense layers or convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import BatchNorm, Conv, pixel_shuffle

Activation = Callable[[jax.Array], jax.Array]


class Encoder(nn.Module):
    """Encoder: x (B, ...) to (B, outputs).

    Convolutions of the `channels`, each of stride 2, then dense layers of the widths `hidden`, and
    one of `outputs`. Without channels x is flattened.
    """

    outputs: int
    channels: Sequence[int] = ()
    hidden: Sequence[int] = ()
    batch_norm: bool = False
    activation: Activation = nn.relu

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, ...) to (B, outputs)."""
        for channels in self.channels:
            x = Conv(channels, strides=2, use_bias=not self.batch_norm)(x)
            x = self.activation(BatchNorm()(x, train, mask) if self.batch_norm else x)
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = self.activation(_he_dense(width)(x))
        return nn.Dense(self.outputs, name="out")(x)


class Decoder(nn.Module):
    """Decoder: latents z (B, K) to (B, *shape).

    Dense layers of the widths `hidden`, then convolutions of the `channels`, each of which doubles
    height and width (a convolution and a pixel shuffle). `full_size_channels` adds a convolution at
    the full size before the last. Without channels a dense layer gives all numbers.
    """

    shape: Sequence[int]
    channels: Sequence[int] = ()
    hidden: Sequence[int] = ()
    batch_norm: bool = False
    activation: Activation = nn.relu
    full_size_channels: int = 0

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """z (B, K) to (B, *shape)."""
        rows = z.shape[0]
        for width in self.hidden:
            z = self.activation(_he_dense(width)(z))
        if not self.channels:
            return nn.Dense(math.prod(self.shape), name="out")(z).reshape(rows, *self.shape)
        first = self._first_shape()
        x = _he_dense(math.prod(first), use_bias=not self.batch_norm)(z).reshape(rows, *first)
        x = self._norm_and_activation(x, train, mask)
        for channels in self.channels[1:]:
            x = self._norm_and_activation(self._upsample(channels, x), train, mask)
        last = partial(Conv, kernel_init=nn.initializers.glorot_normal(), name="out")
        if not self.full_size_channels:
            return pixel_shuffle(last(4 * self.shape[2])(x))
        x = self._norm_and_activation(self._upsample(self.full_size_channels, x), train, mask)
        return last(self.shape[2])(x)

    def _first_shape(self) -> tuple[int, int, int]:
        """Height, width and channels before the first convolution."""
        shape, factor = tuple(self.shape), 2 ** len(self.channels)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise Error(
                f"{len(self.channels)} convolutions that each double height and width need images "
                f"(H, W, C) whose sides are multiples of {factor}, and the shape is {shape}: "
                "take fewer channels, or another shape."
            )
        return shape[0] // factor, shape[1] // factor, self.channels[0]

    def _upsample(self, channels: int, x: jax.Array) -> jax.Array:
        return pixel_shuffle(Conv(4 * channels, use_bias=not self.batch_norm)(x))

    def _norm_and_activation(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        return self.activation(BatchNorm()(x, train, mask) if self.batch_norm else x)


def _he_dense(width: int, **options: Any) -> nn.Dense:
    return nn.Dense(width, kernel_init=nn.initializers.he_normal(), **options)


class Autoencoder(nn.Module):
    """Autoencoder: an encoder to `latent` numbers and a decoder back.

    x (B, *shape) gives its reconstruction, of the same shape. Both have the same `channels`, from
    the largest image to the smallest, and the same `hidden` widths, from x to the latent.
    """

    shape: Sequence[int]
    latent: int
    channels: Sequence[int] = ()
    hidden: Sequence[int] = (256,)
    batch_norm: bool = False
    activation: Activation = nn.relu
    outputs_per_latent: int = 1  # encoder outputs for each number of the latent

    def setup(self) -> None:
        """Encoder and decoder mirror each other."""
        rest = (self.batch_norm, self.activation)
        outputs = self.outputs_per_latent * self.latent
        self.encoder = Encoder(outputs, self.channels, self.hidden, *rest)
        self.decoder = Decoder(self.shape, self.channels[::-1], self.hidden[::-1], *rest)

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, *shape) to its reconstruction."""
        return self.decode(self.encode(x, train, mask), train, mask)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """x (B, *shape) to latents (B, latent)."""
        return self.encoder(x, train, mask)

    def decode(self, z: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Latents (B, latent) to (B, *shape)."""
        return self.decoder(z, train, mask)


class VAE(Autoencoder):
    """Variational autoencoder (Kingma and Welling, 2014): `encode` gives a normal distribution.

    The distribution is given by the mean and the log variance of the latent, from which the
    objective samples by the reparameterization trick. The decoder's outputs are the logits of
    Bernoulli distributions or the means of normal ones, depending on the objective.
    """

    outputs_per_latent: int = 2

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, *shape) to the decoder's output at the mean latent."""
        return self.decode(self.encode(x, train, mask)[0], train, mask)

    def encode(  # type: ignore[override]
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x (B, *shape) to the mean and the log variance of its latent, each (B, latent)."""
        mean, log_variance = jnp.split(self.encoder(x, train, mask), 2, -1)
        return mean, log_variance
