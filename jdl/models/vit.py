"""ViT: the vision transformer, for an image as a sequence of patches."""

import flax.linen as nn
import jax

from jdl.layers import Dense, Dropout, pixel_unshuffle
from jdl.models.transformer import TransformerConfig, TransformerStack


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., 2021): images (B, H, W, C) to (B, outputs).

    The image is cut into patches of `patch_size` x `patch_size` pixels. Position embeddings are
    learned, whatever `config.rotary` says, and the head reads the mean over the patches (global
    average pooling, Beyer et al., 2022) instead of a class token.
    """

    outputs: int
    patch_size: int = 4
    config: TransformerConfig = TransformerConfig()

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        c = self.config
        x = Dropout(c.dropout)(embed_patches(self, x, self.patch_size, c.width), train)
        x = TransformerStack(c, name="stack")(x, train=train)
        return Dense(self.outputs, name="head")(x.mean(1))


def embed_patches(module: nn.Module, x: jax.Array, patch_size: int, width: int) -> jax.Array:
    """Patch and position embeddings of images x (B, H, W, C): (B, N, width).

    Within a compact method of `module`, which gets the parameters "patches" and "positions".
    """
    patches = pixel_unshuffle(x, patch_size)
    x = Dense(width, name="patches")(patches.reshape(x.shape[0], -1, patches.shape[-1]))
    return x + module.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
