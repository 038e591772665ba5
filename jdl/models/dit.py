"""The diffusion transformer: an image with noise as a sequence of patches, whose norms are told time and label."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense, LayerNorm, pixel_shuffle, pixel_unshuffle
from jdl.models.transformer import Attention, Blocks, FeedForward
from jdl.models.unet import conditions


class DiT(nn.Module):
    """Images with noise x (B, H, W, C), times t (B,) and, with `classes` K, labels y (B,) from 0 to K to (B, H, W, C).

    What is told scales and shifts what each block reads, and opens what it adds, from zero (Peebles and Xie, 2023).
    """

    patch: int = 4
    blocks: Blocks = Blocks(rotary=False)
    classes: int = 0

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
        b = self.blocks
        told = conditions(t, y, b.width, self.classes)
        patches = pixel_unshuffle(x, self.patch)
        x = patches.reshape(len(x), -1, patches.shape[-1])
        places = self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], b.width))
        x = Dense(b.width, name="patches")(x) + places
        for n in range(b.depth):
            x = Told(b, name=f"block_{n}")(x, told)
        scale, shift = _closed(2 * b.width, told, "out_told")
        x = _norm()(x) * (1 + scale) + shift
        x = Dense(patches.shape[-1], kernel_init=nn.initializers.zeros, name="out")(x)
        return pixel_shuffle(x.reshape(patches.shape), self.patch)


class Told(nn.Module):
    """A transformer's block whose two halves are opened, scaled and shifted by what it is told."""

    blocks: Blocks

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array) -> jax.Array:
        """x (B, T, width) and what is told (B, D) to (B, T, width)."""
        parts = {
            "attention": Attention(self.blocks, name="attention"),
            "feed_forward": FeedForward(self.blocks),
        }
        for name, part in parts.items():
            scale, shift, opened = _closed(3 * self.blocks.width, told, f"{name}_told", 3)
            x = x + opened * part(_norm()(x) * (1 + scale) + shift)
        return x


def _closed(width: int, told: jax.Array, name: str, parts: int = 2) -> list[jax.Array]:
    """Numbers for each channel, (B, 1, width / parts), that are zero at first."""
    layer = nn.Dense(width, kernel_init=nn.initializers.zeros, name=name)
    return jnp.split(layer(told)[:, None], parts, -1)


def _norm() -> nn.Module:
    return LayerNorm(use_scale=False, use_bias=False)
