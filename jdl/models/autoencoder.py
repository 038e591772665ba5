"""Encoders to a few numbers and decoders back, of dense layers or convolutions: autoencoders and their kin."""

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
    """Convolutions of the `channels`, each of stride 2, then dense layers of the widths `hidden` and one of `outputs`.

    x (B, ...) gives (B, outputs). Without channels x is flattened.
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
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = self.activation(_wide(width)(x))
        return nn.Dense(self.outputs, name="out")(x)


class Decoder(nn.Module):
    """The way back: dense layers of the widths `hidden`, then convolutions of the `channels`, each at twice the side.

    z (B, K) gives (B, *shape). With `fine` channels there is one more convolution at the full size, before the last.
    Without channels a dense layer gives all numbers.
    """

    shape: Sequence[int]
    channels: Sequence[int] = ()
    hidden: Sequence[int] = ()
    batch_norm: bool = False
    activation: Activation = nn.relu
    fine: int = 0

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """z (B, K) to (B, *shape)."""
        for width in self.hidden:
            z = self.activation(_wide(width)(z))
        if not self.channels:
            return nn.Dense(math.prod(self.shape), name="out")(z).reshape(len(z), *self.shape)
        shape, times = tuple(self.shape), 2 ** len(self.channels)
        if len(shape) != 3 or shape[0] % times or shape[1] % times:
            raise Error(
                f"{len(self.channels)} convolutions that each double the sides end at multiples of {times}, and the "
                f"shape is {shape}: take fewer channels, or images (H, W, C) of such sides."
            )
        first = (shape[0] // times, shape[1] // times, self.channels[0])
        x = _wide(math.prod(first), use_bias=not self.batch_norm)(z).reshape(len(z), *first)
        x = self._after(x, train, mask)
        for channels in self.channels[1:]:
            x = self._after(
                pixel_shuffle(Conv(4 * channels, use_bias=not self.batch_norm)(x)), train, mask
            )
        last = partial(Conv, kernel_init=nn.initializers.glorot_normal(), name="out")
        if not self.fine:
            return pixel_shuffle(last(4 * shape[2])(x))
        x = self._after(
            pixel_shuffle(Conv(4 * self.fine, use_bias=not self.batch_norm)(x)), train, mask
        )
        return last(shape[2])(x)

    def _after(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        return self.activation(BatchNorm()(x, train, mask) if self.batch_norm else x)


def _wide(width: int, **options: Any) -> nn.Dense:
    return nn.Dense(width, kernel_init=nn.initializers.he_normal(), **options)


class Autoencoder(nn.Module):
    """An encoder to `latent` numbers and a decoder from them: x (B, *shape) to the same shape.

    Both have the same `channels`, from the largest image to the smallest, and the same `hidden` widths, from x to code.
    """

    shape: Sequence[int]
    latent: int
    channels: Sequence[int] = ()
    hidden: Sequence[int] = (256,)
    batch_norm: bool = False
    activation: Activation = nn.relu
    per_latent: int = 1  # numbers that the encoder gives for each of the code

    def setup(self) -> None:
        """The two halves."""
        rest = (self.batch_norm, self.activation)
        self.encoder = Encoder(self.per_latent * self.latent, self.channels, self.hidden, *rest)
        self.decoder = Decoder(self.shape, self.channels[::-1], self.hidden[::-1], *rest)

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, *shape) to its reconstruction."""
        return self.decode(self.encode(x, train, mask), train, mask)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """x (B, *shape) to codes (B, latent)."""
        return self.encoder(x, train, mask)

    def decode(self, z: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Codes (B, latent) to (B, *shape)."""
        return self.decoder(z, train, mask)


class VAE(Autoencoder):
    """An autoencoder whose `encode` gives the mean and log variance of a normal code (Kingma and Welling, 2014).

    What `decode` says of x is the objective's affair: logits, or means.
    """

    per_latent: int = 2

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, *shape) to the decoder's output at the mean code."""
        return self.decode(self.encode(x, train, mask)[0], train, mask)

    def encode(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        """x (B, *shape) to the mean and the log variance of its code, each (B, latent)."""
        mean, log_variance = jnp.split(self.encoder(x, train, mask), 2, -1)
        return mean, log_variance
