"""DiT: the diffusion transformer, a denoiser of images as sequences of patches."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense, LayerNorm, apply_layers, pixel_shuffle, pixel_unshuffle
from jdl.models.transformer import FeedForward, MultiHeadAttention, TransformerConfig
from jdl.models.unet import conditioning_embedding


class DiT(nn.Module):
    """Diffusion transformer (Peebles and Xie, 2023): denoises images, given times and class labels.

    Noisy images x (B, H, W, C), times t (B,) from 0 to 1 and, with `classes` K, labels y (B,) from
    0 to K give (B, H, W, C). The label K is for no label (classifier-free guidance). Time and label
    condition each block by adaptive layer norm that begins at zero (adaLN-Zero).
    """

    patch_size: int = 4
    config: TransformerConfig = TransformerConfig(rotary=False)
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
        c = self.config
        conditioning = conditioning_embedding(t, y, c.width, self.classes)
        patches = pixel_unshuffle(x, self.patch_size)
        x = patches.reshape(x.shape[0], -1, patches.shape[-1])
        init = nn.initializers.normal(0.02)
        positions = self.param("positions", init, (1, x.shape[1], c.width))
        x = Dense(c.width, name="patches")(x) + positions
        blocks = [{"config": c}] * c.depth
        x = apply_layers(self, DiTBlock, blocks, x, conditioning, remat=c.remat, scan=c.scan)
        scale, shift = _modulation(conditioning, 2, c.width, "out_modulation")
        x = _norm()(x) * (1 + scale) + shift
        x = Dense(patches.shape[-1], kernel_init=nn.initializers.zeros, name="out")(x)
        return pixel_shuffle(x.reshape(patches.shape), self.patch_size)


class DiTBlock(nn.Module):
    """DiT block: attention and feed-forward with adaLN-Zero.

    The conditioning vector scales and shifts the input of each, and gates its output; the gates
    begin at zero, so the block begins as the identity.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array, conditioning: jax.Array) -> jax.Array:
        """x (B, T, width) and the conditioning vectors (B, width) to (B, T, width)."""
        self.config.require_alike("DiT")
        sublayers = {
            "attention": MultiHeadAttention(self.config, name="attention"),
            "feed_forward": FeedForward(self.config),
        }
        for name, sublayer in sublayers.items():
            scale, shift, gate = _modulation(
                conditioning, 3, self.config.width, f"{name}_modulation"
            )
            x = x + gate * sublayer(_norm()(x) * (1 + scale) + shift)
        return x


def _modulation(conditioning: jax.Array, parts: int, width: int, name: str) -> list[jax.Array]:
    """Scale, shift and gate of adaptive layer norm, (B, 1, width) each, zero at first."""
    layer = nn.Dense(parts * width, kernel_init=nn.initializers.zeros, name=name)
    return jnp.split(layer(conditioning)[:, None], parts, -1)


def _norm() -> nn.Module:
    """Layer norm without parameters of its own: the modulation has them."""
    return LayerNorm(use_scale=False, use_bias=False)
