"""U-Net: convolutions with skip connections, for segmentation and for diffusion models."""

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
    avg_pool,
    group_norm,
    pixel_shuffle,
    pixel_unshuffle,
    sinusoidal_embedding,
)


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015), for segmentation and as a denoiser for diffusion models.

    A small form of that of DDPM (Ho et al., 2020). Images x (B, H, W, C) give (B, H, W, `outputs`),
    by default C. For semantic segmentation, with `jdl.objectives.segment`, these are the logits of
    each pixel. For diffusion the images are noisy, and there are times t (B,) from 0 to 1 and, with
    `classes` K, labels y (B,) from 0 to K, of which K is for no label (classifier-free guidance).

    Each of the `channels` is a level of `blocks` residual blocks; each level after the first has
    half the height and width. Time and label, where given, condition every block; the lowest level
    has self-attention too. With a `patch_size` above 1, squares of that many pixels a side are one
    position, as in Hoogeboom et al. (2023), which saves the most expensive level. The last
    convolution begins at zero.
    """

    channels: Sequence[int] = (32, 64, 64)
    blocks: int = 1
    classes: int = 0
    heads: int = 4
    dropout: float = 0.0
    patch_size: int = 1
    outputs: int | None = None  # None: as many as the image's channels

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array | None = None,
        y: jax.Array | None = None,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, H, W, C), and for diffusion t (B,) and y (B,), to (B, H, W, outputs)."""
        outputs = (self.outputs or x.shape[-1]) * self.patch_size**2
        self._check_size(x)
        if t is None and (y is not None or self.classes):
            raise Error(
                f"A U-Net reads labels y, with classes={self.classes}, only together with times t: "
                "give it t, as a diffusion objective does. For segmentation give neither y nor "
                "classes, but outputs=K."
            )
        conditioning = None
        if t is not None:
            conditioning = conditioning_embedding(t, y, 4 * self.channels[0], self.classes)
        x = Conv(self.channels[0])(pixel_unshuffle(x, self.patch_size))
        skips = [x]
        for level, channels in enumerate(self.channels):
            x = avg_pool(x) if level else x
            for _ in range(self.blocks):
                x = Residual(channels, self.dropout)(x, conditioning, train)
                skips.append(x)
        x = Residual(self.channels[-1], self.dropout)(self._attention(x), conditioning, train)
        for level, channels in reversed(list(enumerate(self.channels))):
            for _ in range(self.blocks):
                x = jnp.concatenate([x, skips.pop()], -1)
                x = Residual(channels, self.dropout)(x, conditioning, train)
            if level:
                x = pixel_shuffle(Conv(4 * self.channels[level - 1])(x))
        x = nn.silu(group_norm(jnp.concatenate([x, skips.pop()], -1)))
        x = Conv(outputs, kernel_init=nn.initializers.zeros, name="out")(x)
        return pixel_shuffle(x, self.patch_size)

    def _check_size(self, x: jax.Array) -> None:
        factor = 2 ** (len(self.channels) - 1) * self.patch_size
        if x.shape[1] % factor or x.shape[2] % factor:
            patches = f" and patches of {self.patch_size} pixels" if self.patch_size > 1 else ""
            raise Error(
                f"A U-Net of {len(self.channels)} levels{patches} needs images whose sides are "
                f"multiples of {factor}, not {x.shape[1]} x {x.shape[2]}: resize or pad them, or "
                "take fewer channels."
            )

    def _attention(self, x: jax.Array) -> jax.Array:
        """Self-attention among all positions of x (B, H, W, C), added to it."""
        rows, height, width, channels = x.shape
        positions = group_norm(x).reshape(rows, height * width, channels)
        heads = (rows, -1, self.heads, channels // self.heads)
        q, k, v = (
            Dense(channels, use_bias=name != "key", name=name)(positions).reshape(heads)
            for name in ("query", "key", "value")
        )
        out = Dense(channels, name="attention_out")(attention(q, k, v).reshape(positions.shape))
        return x + out.reshape(x.shape)


class Residual(nn.Module):
    """Residual block of a U-Net: two convolutions beside a shortcut.

    The conditioning vector, if any, scales and shifts the activations between them (FiLM, Perez et
    al., 2018).
    """

    channels: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, conditioning: jax.Array | None, train: bool) -> jax.Array:
        """x (B, H, W, C) and conditioning vectors (B, D) to (B, H, W, channels)."""
        h = Conv(self.channels)(nn.silu(group_norm(x)))
        h = group_norm(h)
        if conditioning is not None:
            modulation = nn.Dense(2 * self.channels)(conditioning)[:, None, None]
            scale, shift = jnp.split(modulation, 2, -1)
            h = h * (1 + scale) + shift
        h = Dropout(self.dropout)(nn.silu(h), train)
        h = Conv(self.channels, kernel_init=nn.initializers.zeros)(h)
        return h + (x if x.shape == h.shape else nn.Dense(self.channels)(x))


def conditioning_embedding(
    t: jax.Array, y: jax.Array | None, width: int, classes: int
) -> jax.Array:
    """Conditioning vectors (B, width) from times t (B,) and labels y (B,), within a compact method.

    A sinusoidal time embedding plus a label embedding, and a dense layer. Raises `Error` if the
    model has classes but gets no labels.
    """
    embedding = nn.Dense(width, name="time")(sinusoidal_embedding(t, width))
    if classes:
        if y is None:
            raise Error(
                f"The model has {classes} classes, but it gets no labels: give y, or pass "
                f"classes={classes} to the diffusion objective."
            )
        embedding = embedding + nn.Embed(classes + 1, width, name="label")(y)
    return nn.silu(nn.Dense(width, name="conditioning")(nn.silu(embedding)))
