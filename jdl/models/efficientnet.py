"""EfficientNet: inverted residual blocks (MBConv) with compound scaling of width and depth."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jdl.errors import Error
from jdl.layers import ConvNorm, Dropout


class Stage(NamedTuple):
    """A stage of `blocks` inverted residual blocks; each is `expansion` times as wide inside."""

    expansion: int
    channels: int
    blocks: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 3),
    Stage(6, 24, 2, 3),
    Stage(6, 40, 2, 5),
    Stage(6, 80, 3, 3),
    Stage(6, 112, 3, 5),
    Stage(6, 192, 4, 5),
    Stage(6, 320, 1, 3),
)
MOBILENET_V2 = (
    Stage(1, 16, 1, 3),
    Stage(6, 24, 2, 3),
    Stage(6, 32, 3, 3),
    Stage(6, 64, 4, 3),
    Stage(6, 96, 3, 3),
    Stage(6, 160, 3, 3),
    Stage(6, 320, 1, 3),
)
SMALL_IMAGES = (1, 1, 1, 2, 2, 1, 2, 1)  # strides of the stem and of each stage
LARGE_IMAGES = (2, 1, 2, 2, 2, 1, 2, 1)  # as published
PUBLISHED = (  # width, depth and dropout of B0 to B7
    (1.0, 1.0, 0.2),
    (1.0, 1.1, 0.2),
    (1.1, 1.2, 0.3),
    (1.2, 1.4, 0.3),
    (1.4, 1.8, 0.4),
    (1.6, 2.2, 0.4),
    (1.8, 2.6, 0.5),
    (2.0, 3.1, 0.5),
)


def efficientnet(n: int, outputs: int | None, **options: Any) -> "EfficientNet":
    """The published EfficientNet-B0 to -B7 for large images (Tan and Le, 2019).

    Options are those of `EfficientNet`. For 1000 classes B0 has 5,288,548 parameters. Raises
    `Error` for any other n.
    """
    if n not in range(len(PUBLISHED)):
        raise Error(
            f"EfficientNet was published as B0 to B{len(PUBLISHED) - 1}, and B{n} is none of these."
        )
    width, depth, dropout = PUBLISHED[n]
    return EfficientNet(
        outputs,
        **{"width": width, "depth": depth, "dropout": dropout, "strides": LARGE_IMAGES, **options},
    )


class EfficientNet(nn.Module):
    """EfficientNet (Tan and Le, 2019): stages of inverted residual blocks (MBConv).

    x (B, H, W, C) gives (B, outputs): a stem, the stages, a 1 x 1 convolution, global average
    pooling, and a dense layer. Compound scaling: `width` times as many channels, in multiples of
    eight, and `depth` times as many blocks. The default strides are for small images;
    `LARGE_IMAGES` has those of the paper. With `MOBILENET_V2` for stages, `squeeze_ratio=0` and
    `activation=nn.relu6` it is MobileNetV2 (Sandler et al., 2018). Weights of PyTorch need
    `symmetric_padding`, those of TensorFlow `epsilon=1e-3`. With `outputs=None` there is no dense
    layer: it gives the mean of the features (B, F).
    """

    outputs: int | None
    width: float = 1.0
    depth: float = 1.0
    stages: Sequence[Stage] = STAGES
    strides: Sequence[int] = SMALL_IMAGES
    squeeze_ratio: float = 0.25  # of squeeze-and-excitation, to a block's input channels; 0: none
    dropout: float = 0.2  # before the dense layer
    drop_path: float = 0.2  # stochastic depth: block n of N has the rate n / N times this
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    symmetric_padding: bool = False
    epsilon: float = 1e-5  # of BatchNorm

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        stem, *strides = self.strides
        form: dict[str, Any] = {
            "activation": self.activation,
            "symmetric_padding": self.symmetric_padding,
            "epsilon": self.epsilon,
        }
        x = ConvNorm(self._channels(32), 3, stem, **form)(x, train, mask)
        blocks = [
            (stage, stride if first else 1)
            for stage, stride in zip(self.stages, strides, strict=True)
            for first in [True] + [False] * (math.ceil(self.depth * stage.blocks) - 1)
        ]
        for n, (stage, stride) in enumerate(blocks):
            x = InvertedResidual(
                self._channels(stage.channels),
                stage.expansion,
                stage.kernel,
                stride,
                self.squeeze_ratio,
                self.drop_path * n / len(blocks),
                **form,
            )(x, train, mask)
        top = self._channels(4 * self.stages[-1].channels)
        x = ConvNorm(top, 1, **form)(x, train, mask)
        x = Dropout(self.dropout)(x.mean((1, 2)), train)
        if self.outputs is None:
            return x
        return nn.Dense(self.outputs, name="head")(x)

    def _channels(self, published: int) -> int:
        """`width` times as many, rounded to a multiple of eight, down by a tenth at most."""
        scaled = self.width * published
        nearest = max(8, int(scaled + 4) // 8 * 8)
        return nearest if nearest >= 0.9 * scaled else nearest + 8


class InvertedResidual(nn.Module):
    """Inverted residual block, MBConv (Sandler et al., 2018), with squeeze-and-excitation.

    A 1 x 1 convolution to more channels, a depthwise convolution, squeeze-and-excitation (Hu et
    al., 2018), and a 1 x 1 convolution to fewer channels. Where the shape stays, the input is
    added; training then drops the block for whole images at the rate `drop_path` (stochastic depth,
    Huang et al., 2016).
    """

    channels: int
    expansion: int
    kernel: int
    stride: int
    squeeze_ratio: float
    drop_path: float
    activation: Callable[[jax.Array], jax.Array]
    symmetric_padding: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, H, W, C) to (B, H / stride, W / stride, channels)."""
        inputs, expanded, act = x.shape[-1], self.expansion * x.shape[-1], self.activation
        conv_norm = partial(
            ConvNorm, symmetric_padding=self.symmetric_padding, epsilon=self.epsilon
        )
        y = x
        if self.expansion > 1:
            y = conv_norm(expanded, 1, activation=act)(y, train, mask)
        depthwise = conv_norm(expanded, self.kernel, self.stride, expanded, activation=act)
        y = depthwise(y, train, mask)
        if self.squeeze_ratio:
            squeeze = nn.Dense(max(1, int(self.squeeze_ratio * inputs)))
            squeezed = act(squeeze(y.mean((1, 2), keepdims=True)))
            y = y * nn.sigmoid(nn.Dense(expanded)(squeezed))
        y = conv_norm(self.channels, 1, activation=None)(y, train, mask)
        if y.shape != x.shape:
            return y
        return x + Dropout(self.drop_path, whole_rows=True)(y, train)
