"""Residual networks: blocks of convolutions whose output is added to their input."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import ConvNorm, max_pool

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(depth: int, outputs: int, **options: Any) -> "ResNet":
    """The published ResNet of 18, 34, 50, 101 or 152 layers (He et al., 2016); options are those of `ResNet`.

    For large images and 1000 classes ResNet-18 has 11,689,512 parameters, and ResNet-50 25,557,032.
    """
    if depth not in BLOCKS:
        raise Error(
            f"ResNet was published with {', '.join(map(str, BLOCKS))} layers, and {depth} is none of these."
        )
    stages = tuple(zip((64, 128, 256, 512), BLOCKS[depth], strict=True))
    return ResNet(outputs, stages, **{"bottleneck": depth >= 50, "large_images": True, **options})


class ResNet(nn.Module):
    """A stem, then stages (channels, n) of n residual blocks, the mean over places, and a dense layer.

    x (B, H, W, C) gives (B, outputs). The stem has the channels of the first stage; every later stage halves height
    and width. `bottleneck` blocks put out four times the channels of their stage. The stem is one 3 x 3 convolution,
    as He et al. (2016) have it for small images; `large_images` asks for the one that divides the sides by four.
    """

    outputs: int
    stages: Sequence[tuple[int, int]] = ((64, 2), (128, 2), (256, 2), (512, 2))
    bottleneck: bool = False
    large_images: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        kernel, stride = (7, 2) if self.large_images else (3, 1)
        x = ConvNorm(self.stages[0][0], kernel, stride, activation=self.activation)(x, train, mask)
        if self.large_images:
            border = ((0, 0), (1, 1), (1, 1), (0, 0))
            x = max_pool(jnp.pad(x, border, constant_values=-jnp.inf), 3, 2)
        for stage, (channels, blocks) in enumerate(self.stages):
            for n in range(blocks):
                stride = 2 if stage > 0 and n == 0 else 1
                x = Block(channels, stride, self.bottleneck, self.activation)(x, train, mask)
        return nn.Dense(self.outputs, name="head")(x.mean((1, 2)))


class Block(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1 to four times the channels, beside a shortcut.

    The last BatchNorm starts at scale 0, and so the block as its shortcut (Goyal et al., 2017).
    """

    channels: int
    stride: int
    bottleneck: bool
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, H, W, C) to (B, H / stride, W / stride, channels or four times as many)."""
        c, s = self.channels, self.stride
        *inner, last = (
            ((c, 1, 1), (c, 3, s), (4 * c, 1, 1)) if self.bottleneck else ((c, 3, s), (c, 3, 1))
        )
        y = x
        for form in inner:
            y = ConvNorm(*form, activation=self.activation)(y, train, mask)
        y = ConvNorm(*last, activation=None, scale_init=nn.initializers.zeros)(y, train, mask)
        if x.shape != y.shape:
            x = ConvNorm(y.shape[-1], 1, s, activation=None)(x, train, mask)
        return self.activation(x + y)
