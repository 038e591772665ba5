"""ConvNeXt: a convolutional network of blocks in the form of a transformer's."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jdl.errors import Error
from jdl.layers import Conv, Dense, Dropout, LayerNorm

CHANNELS = {  # of the first stage, and the blocks of the third
    "tiny": (96, 9),
    "small": (96, 27),
    "base": (128, 27),
    "large": (192, 27),
    "xlarge": (256, 27),
}
EPSILON = 1e-6  # of layer norm


def convnext(size: str, outputs: int | None, **options: Any) -> "ConvNeXt":
    """The published ConvNeXt, "tiny", "small", "base", "large" or "xlarge" (Liu et al., 2022).

    Options are those of `ConvNeXt`. For 1000 classes the tiny one has 28,589,128 parameters. Raises
    `Error` for any other size.
    """
    if size not in CHANNELS:
        raise Error(
            f"ConvNeXt was published as {', '.join(CHANNELS)}, and {size!r} is none of these."
        )
    channels, blocks = CHANNELS[size]
    stages = tuple((channels * 2**n, blocks if n == 2 else 3) for n in range(4))
    return ConvNeXt(outputs, stages, **options)


class ConvNeXt(nn.Module):
    """ConvNeXt (Liu et al., 2022): stages of blocks of a depthwise convolution and an MLP.

    x (B, H, W, C) gives (B, outputs): a stem, which is a convolution of patches of `patch_size` x
    `patch_size` pixels, `stages` (channels, n) of n blocks, global average pooling, layer norm, and
    a dense layer. Every stage but the first halves height and width. The published patches have 4
    pixels a side; for small images take 1 or 2. Images are cut off where the sides do not divide.
    What a block adds is scaled by a learned vector, which begins at `layer_scale` (LayerScale,
    Touvron et al., 2021), or by none. With `outputs=None` there is no dense layer: it gives the
    normalized mean of the features (B, F).
    """

    outputs: int | None
    stages: Sequence[tuple[int, int]] = ((96, 3), (192, 3), (384, 9), (768, 3))
    patch_size: int = 4
    kernel: int = 7  # of the depthwise convolutions
    layer_scale: float | None = 1e-6
    drop_path: float = 0.1  # stochastic depth: block n of N has the rate n / N times this
    activation: Callable[[jax.Array], jax.Array] = partial(nn.gelu, approximate=False)
    head_epsilon: float = EPSILON  # of the last layer norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        count, before = sum(blocks for _, blocks in self.stages), 0
        for stage, (channels, blocks) in enumerate(self.stages):
            if stage == 0:
                x = _patches(channels, self.patch_size, "stem")(x)
                x = LayerNorm(epsilon=EPSILON, name="stem_norm")(x)
            else:
                x = LayerNorm(epsilon=EPSILON, name=f"norm_{stage}")(x)
                x = _patches(channels, 2, f"downsample_{stage}")(x)
            for n in range(blocks):
                rate = self.drop_path * (before + n) / count
                name = f"stage_{stage}_block_{n}"
                form = self.kernel, self.layer_scale, rate, self.activation
                x = ConvNeXtBlock(*form, name=name)(x, train)
            before += blocks
        x = LayerNorm(epsilon=self.head_epsilon, name="head_norm")(x.mean((1, 2)))
        return x if self.outputs is None else Dense(self.outputs, name="head")(x)


def _patches(channels: int, size: int, name: str) -> Conv:
    """A convolution of patches that do not overlap."""
    return Conv(channels, (size, size), size, padding="VALID", name=name)


class ConvNeXtBlock(nn.Module):
    """Block of ConvNeXt: a depthwise convolution, layer norm, and an MLP of each pixel.

    The MLP is four times as wide inside, an inverted bottleneck. Its output, times the layer scale,
    is added to the input; training drops it for whole images at the rate `drop_path` (stochastic
    depth, Huang et al., 2016).
    """

    kernel: int
    layer_scale: float | None
    drop_path: float
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) to the same shape."""
        channels = x.shape[-1]
        depthwise = Conv(
            channels, (self.kernel,) * 2, feature_group_count=channels, name="depthwise"
        )
        y = LayerNorm(epsilon=EPSILON, name="norm")(depthwise(x))
        y = self.activation(Dense(4 * channels, name="in")(y))
        y = Dense(channels, name="out")(y)
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            y = y * self.param("scale", init, (channels,))[None, None, None]
        return x + Dropout(self.drop_path, whole_rows=True)(y, train)
