"""ResNet: residual networks, whose blocks of convolutions add their output to their input."""

from collections.abc import Callable, Sequence
from functools import partial
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


def resnet(depth: int, outputs: int | None, **options: Any) -> "ResNet":
    """The published ResNet of 18, 34, 50, 101 or 152 layers (He et al., 2016).

    Options are those of `ResNet`. For large images and 1000 classes ResNet-18 has 11,689,512
    parameters, and ResNet-50 25,557,032. Raises `Error` for any other depth.
    """
    if depth not in BLOCKS:
        raise Error(
            f"ResNet was published with {', '.join(map(str, BLOCKS))} layers, "
            f"and {depth} is none of these."
        )
    stages = tuple(zip((64, 128, 256, 512), BLOCKS[depth], strict=True))
    return ResNet(outputs, stages, **{"bottleneck": depth >= 50, "large_images": True, **options})


class ResNet(nn.Module):
    """Residual network (He et al., 2016): blocks of convolutions with residual connections.

    x (B, H, W, C) gives (B, outputs): a stem with the channels of the first stage, `stages`
    (channels, n) of n residual blocks, global average pooling, and a dense layer. Every stage but
    the first halves height and width. `bottleneck` blocks output four times the channels of their
    stage. The stem is one 3 x 3 convolution, as He et al. have it for small images; with
    `large_images` it is 7 x 7 and max pooling, both of stride 2. With `outputs=None` it is a
    backbone: it gives the features (B, h, w, c) of every stage, for a feature pyramid say.
    `symmetric_padding` is what weights of PyTorch need.
    """

    outputs: int | None
    stages: Sequence[tuple[int, int]] = ((64, 2), (128, 2), (256, 2), (512, 2))
    bottleneck: bool = False
    large_images: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    symmetric_padding: bool = False
    inner: Sequence[int] | None = None  # channels within the blocks of each stage, if others

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> Any:
        """x (B, H, W, C) to (B, outputs), or to the features of every stage."""
        kernel, stride = (7, 2) if self.large_images else (3, 1)
        form: dict[str, Any] = {
            "activation": self.activation,
            "symmetric_padding": self.symmetric_padding,
        }
        x = ConvNorm(self.stages[0][0], kernel, stride, **form)(x, train, mask)
        if self.large_images:
            border = ((0, 0), (1, 1), (1, 1), (0, 0))
            x = max_pool(jnp.pad(x, border, constant_values=-jnp.inf), 3, 2)
        features = []
        for stage, (channels, blocks) in enumerate(self.stages):
            for n in range(blocks):
                stride = 2 if stage > 0 and n == 0 else 1
                inner = self.inner[stage] if self.inner else None
                block = Block(channels, stride, self.bottleneck, **form, inner=inner)
                x = block(x, train, mask)
            features.append(x)
        if self.outputs is None:
            return tuple(features)
        return nn.Dense(self.outputs, name="head")(x.mean((1, 2)))


class Block(nn.Module):
    """Residual block: convolutions beside a shortcut (skip connection), which are added.

    Two 3 x 3 convolutions, or as a `bottleneck` 1 x 1, 3 x 3, and 1 x 1 to four times the channels.
    The last BatchNorm starts at scale 0, so the block starts as its shortcut (Goyal et al., 2017).
    """

    channels: int
    stride: int
    bottleneck: bool
    activation: Callable[[jax.Array], jax.Array]
    symmetric_padding: bool = False
    inner: int | None = None  # channels of its convolutions but the last; `channels` by default

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, H, W, C) to (B, H / stride, W / stride, channels or four times as many)."""
        c, s = self.channels, self.stride
        inside = self.inner or c
        convolutions = [(inside, 3, s), (c, 3, 1)]  # channels, kernel, stride
        if self.bottleneck:
            convolutions = [(inside, 1, 1), (inside, 3, s), (4 * c, 1, 1)]
        conv_norm = partial(ConvNorm, symmetric_padding=self.symmetric_padding)
        *inner, last = convolutions
        y = x
        for convolution in inner:
            y = conv_norm(*convolution, activation=self.activation)(y, train, mask)
        y = conv_norm(*last, activation=None, scale_init=nn.initializers.zeros)(y, train, mask)
        if x.shape != y.shape:
            x = conv_norm(y.shape[-1], 1, s, activation=None)(x, train, mask)
        return self.activation(x + y)
