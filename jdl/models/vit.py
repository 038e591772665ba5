"""The vision transformer: an image as a sequence of patches."""

import flax.linen as nn
import jax

from jdl.layers import Dense, Dropout, pixel_unshuffle
from jdl.models.transformer import Blocks, Stack


class ViT(nn.Module):
    """Images (B, H, W, C) to (B, outputs), through patches of `patch` x `patch` pixels (Dosovitskiy et al., 2021).

    Positions are learned, whatever `blocks.rotary` says, and the head reads the mean over the patches (Beyer et al.,
    2022).
    """

    outputs: int
    patch: int = 4
    blocks: Blocks = Blocks()

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        b, patches = self.blocks, pixel_unshuffle(x, self.patch)
        x = Dense(b.width, name="patches")(patches.reshape(len(x), -1, patches.shape[-1]))
        positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = Dropout(b.dropout)(x + positions, train)
        x = Stack(b, name="stack")(x, train=train)
        return Dense(self.outputs, name="head")(x.mean(1))
