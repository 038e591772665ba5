"""The U-Net that takes noise from images: down to small sides and up again, with what was seen on the way down."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import (
    Conv,
    Dense,
    Dropout,
    attention,
    mean_pool,
    pixel_shuffle,
    pixel_unshuffle,
    sinusoidal_embedding,
)


class UNet(nn.Module):
    """Images with noise x (B, H, W, C), times t (B,) and, with `classes` K, labels y (B,) from 0 to K to (B, H, W, C).

    A level has `blocks` residual blocks of so many of the `channels`; each level after the first has half the sides.
    Blocks are told time and label; the lowest level has attention too (Ho et al., 2020, made small). The label K is for
    none. With a `patch` above 1, squares of so many pixels are one place, as in Hoogeboom et al. (2023), and the
    dearest level is saved. The last convolution begins at zero.
    """

    channels: Sequence[int] = (32, 64, 64)
    blocks: int = 1
    classes: int = 0
    heads: int = 4
    dropout: float = 0.0
    patch: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        y: jax.Array | None = None,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, H, W, C), t (B,) and y (B,) to (B, H, W, C)."""
        x = pixel_unshuffle(x, self.patch)
        times = 2 ** (len(self.channels) - 1)
        if x.shape[1] % times or x.shape[2] % times:
            raise Error(
                f"{len(self.channels)} levels halve sides that are multiples of {times}, and not {x.shape[1:3]}."
            )
        told = conditions(t, y, 4 * self.channels[0], self.classes)
        x, output = Conv(self.channels[0])(x), x.shape[-1]
        kept = [x]
        for level, channels in enumerate(self.channels):
            x = mean_pool(x) if level else x
            for _ in range(self.blocks):
                x = Residual(channels, self.dropout)(x, told, train)
                kept.append(x)
        x = Residual(self.channels[-1], self.dropout)(self._mixed(x), told, train)
        for level, channels in reversed(list(enumerate(self.channels))):
            for _ in range(self.blocks):
                x = Residual(channels, self.dropout)(
                    jnp.concatenate([x, kept.pop()], -1), told, train
                )
            if level:
                x = pixel_shuffle(Conv(4 * self.channels[level - 1])(x))
        x = nn.silu(norm(jnp.concatenate([x, kept.pop()], -1)))
        return pixel_shuffle(
            Conv(output, kernel_init=nn.initializers.zeros, name="out")(x), self.patch
        )

    def _mixed(self, x: jax.Array) -> jax.Array:
        """Attention among all places."""
        rows, height, width, channels = x.shape
        places = norm(x).reshape(rows, height * width, channels)
        by_head = (rows, -1, self.heads, channels // self.heads)
        q, k, v = (
            Dense(channels, use_bias=name != "key", name=name)(places).reshape(by_head)
            for name in ("query", "key", "value")
        )
        return x + Dense(channels, name="mixed")(attention(q, k, v).reshape(places.shape)).reshape(
            x.shape
        )


class Residual(nn.Module):
    """Two convolutions beside a shortcut; what is told scales and shifts what is between them."""

    channels: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) and what is told (B, D) to (B, H, W, channels)."""
        h = Conv(self.channels)(nn.silu(norm(x)))
        scale, shift = jnp.split(nn.Dense(2 * self.channels)(told)[:, None, None], 2, -1)
        h = Dropout(self.dropout)(nn.silu(norm(h) * (1 + scale) + shift), train)
        h = Conv(self.channels, kernel_init=nn.initializers.zeros)(h)
        return h + (x if x.shape == h.shape else nn.Dense(self.channels)(x))


def norm(x: jax.Array) -> jax.Array:
    """Group normalisation, eight channels a group or all in one (Wu and He, 2018), within a compact method."""
    groups = x.shape[-1] // 8 if x.shape[-1] % 8 == 0 else 1
    with jax.numpy_dtype_promotion("standard"):  # Flax's mixes types, which "strict" forbids
        return nn.GroupNorm(num_groups=groups)(x)


def conditions(t: jax.Array, y: jax.Array | None, width: int, classes: int) -> jax.Array:
    """Times (B,) and labels (B,) as vectors (B, width), within a compact method."""
    told = nn.Dense(width, name="time")(sinusoidal_embedding(t, width))
    if classes:
        if y is None:
            raise Error(
                f"The model has {classes} classes and is given no labels: say diffuse(..., classes={classes})."
            )
        told = told + nn.Embed(classes + 1, width, name="label")(y)
    return nn.silu(nn.Dense(width, name="told")(nn.silu(told)))
