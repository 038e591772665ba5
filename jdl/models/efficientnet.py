"""EfficientNet, and MobileNetV2 and V3: inverted residual blocks (MBConv), scaled together."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jdl.errors import Error
from jdl.layers import ConvNorm, Dense, Dropout


class Stage(NamedTuple):
    """A stage of `blocks` inverted residual blocks; each is `expansion` times as wide inside.

    Several expansions are those of its blocks. Without `squeeze` it has no squeeze-and-excitation.
    The activation is by default that of the network.
    """

    expansion: float | tuple[float, ...]
    channels: int
    blocks: int
    kernel: int
    squeeze: bool = True
    activation: Callable[[jax.Array], jax.Array] | None = None

    def expansions(self, depth: float) -> tuple[float, ...]:
        """The expansion of each block, where there are `depth` times as many."""
        blocks = math.ceil(depth * self.blocks)
        given = self.expansion if isinstance(self.expansion, tuple) else (self.expansion,)
        return (*given, *given[-1:] * blocks)[:blocks]


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
MOBILENET_V3 = {  # by size: the stages, their strides and that of the stem, and a dense layer
    "large": (
        (
            Stage(1, 16, 1, 3, False, nn.relu),
            Stage((4, 3), 24, 2, 3, False, nn.relu),
            Stage(3, 40, 3, 5, True, nn.relu),
            Stage((6, 2.5, 2.3), 80, 4, 3, False),
            Stage(6, 112, 2, 3),
            Stage(6, 160, 3, 5),
        ),
        (2, 1, 2, 2, 2, 1, 2),
        1280,
    ),
    "small": (
        (
            Stage(1, 16, 1, 3, True, nn.relu),
            Stage((4.5, 3.67), 24, 2, 3, False, nn.relu),
            Stage((4, 6), 40, 3, 5),
            Stage(3, 48, 2, 5),
            Stage(6, 96, 3, 5),
        ),
        (2, 2, 2, 2, 1, 2),
        1024,
    ),
}
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


def mobilenet_v3(size: str, outputs: int | None, **options: Any) -> "EfficientNet":
    """The published MobileNetV3, "large" or "small", for large images (Howard et al., 2019).

    Options are those of `EfficientNet`. For 1000 classes the large one has 5,483,032 parameters,
    and the small one 2,542,856. Raises `Error` for any other size.
    """
    if size not in MOBILENET_V3:
        raise Error(
            f"MobileNetV3 was published as {', '.join(MOBILENET_V3)}, and {size!r} is none of "
            "these."
        )
    stages, strides, hidden = MOBILENET_V3[size]
    form = {"stem": 16, "top": 6, "activation": nn.hard_swish, "hard_squeeze": True}
    published = {"stages": stages, "strides": strides, "hidden": hidden, "drop_path": 0.0, **form}
    return EfficientNet(outputs, **{**published, **options})


class EfficientNet(nn.Module):
    """EfficientNet (Tan and Le, 2019): stages of inverted residual blocks (MBConv).

    x (B, H, W, C) gives (B, outputs): a stem, the stages, a 1 x 1 convolution, global average
    pooling, and a dense layer. Compound scaling: `width` times as many channels, in multiples of
    eight, and `depth` times as many blocks. The default strides are for small images;
    `LARGE_IMAGES` has those of the paper. With `MOBILENET_V2` for stages, `squeeze_ratio=0` and
    `activation=nn.relu6` it is MobileNetV2 (Sandler et al., 2018); `mobilenet_v3` makes a
    MobileNetV3. Weights of PyTorch need `symmetric_padding`, those of TensorFlow `epsilon=1e-3`.
    With `outputs=None` there is no last dense layer: it gives the mean of the features (B, F), or
    what the `hidden` layer makes of it.
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
    stem: int = 32  # channels of the stem, before `width`
    top: int = 4  # channels of the 1 x 1 convolution, to those of the last stage
    hidden: int = 0  # width of a dense layer with the activation, after the pooling; 0: none
    hard_squeeze: bool = False  # as in `InvertedResidual`

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
        x = ConvNorm(self._channels(self.stem), 3, stem, **form)(x, train, mask)
        blocks = [
            (stage, expansion, 1 if block else stride)
            for stage, stride in zip(self.stages, strides, strict=True)
            for block, expansion in enumerate(stage.expansions(self.depth))
        ]
        for n, (stage, expansion, stride) in enumerate(blocks):
            x = InvertedResidual(
                self._channels(stage.channels),
                expansion,
                stage.kernel,
                stride,
                self.squeeze_ratio if stage.squeeze else 0.0,
                self.drop_path * n / len(blocks),
                hard_squeeze=self.hard_squeeze,
                **{**form, "activation": stage.activation or self.activation},
            )(x, train, mask)
        top = self._channels(self.top * self.stages[-1].channels)
        x = ConvNorm(top, 1, **form)(x, train, mask).mean((1, 2))
        if self.hidden:
            x = self.activation(Dense(self.hidden, name="hidden")(x))
        x = Dropout(self.dropout)(x, train)
        if self.outputs is None:
            return x
        return nn.Dense(self.outputs, name="head")(x)

    def _channels(self, published: int) -> int:
        """`width` times as many, rounded to a multiple of eight."""
        return _multiple_of_eight(self.width * published)


def _multiple_of_eight(channels: float) -> int:
    """The nearest multiple of eight, but none that is lower by more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class InvertedResidual(nn.Module):
    """Inverted residual block, MBConv (Sandler et al., 2018), with squeeze-and-excitation.

    A 1 x 1 convolution to `expansion` times as many channels (to a multiple of eight where that is
    a fraction), a depthwise convolution, squeeze-and-excitation (Hu et al., 2018), and a 1 x 1
    convolution to fewer channels. Where the shape stays, the input is added; training then drops
    the block for whole images at the rate `drop_path` (stochastic depth, Huang et al., 2016). The
    squeezed channels are `squeeze_ratio` times those of the input. With `hard_squeeze` they are
    that many times the expanded ones, in multiples of eight, squeezed by ReLU and the hard sigmoid
    (MobileNetV3; Howard et al., 2019).
    """

    channels: int
    expansion: float
    kernel: int
    stride: int
    squeeze_ratio: float
    drop_path: float
    activation: Callable[[jax.Array], jax.Array]
    symmetric_padding: bool = False
    epsilon: float = 1e-5
    hard_squeeze: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, H, W, C) to (B, H / stride, W / stride, channels)."""
        inputs, act = x.shape[-1], self.activation
        expanded = int(self.expansion * inputs)
        if self.expansion % 1:
            expanded = _multiple_of_eight(self.expansion * inputs)
        conv_norm = partial(
            ConvNorm, symmetric_padding=self.symmetric_padding, epsilon=self.epsilon
        )
        y = x
        if self.expansion > 1:
            y = conv_norm(expanded, 1, activation=act)(y, train, mask)
        depthwise = conv_norm(expanded, self.kernel, self.stride, expanded, activation=act)
        y = depthwise(y, train, mask)
        if self.squeeze_ratio:
            squeezed, inner, gate = int(self.squeeze_ratio * inputs), act, nn.sigmoid
            if self.hard_squeeze:
                squeezed = _multiple_of_eight(self.squeeze_ratio * expanded)
                inner, gate = nn.relu, nn.hard_sigmoid
            hidden = inner(nn.Dense(max(1, squeezed))(y.mean((1, 2), keepdims=True)))
            y = y * gate(nn.Dense(expanded)(hidden))
        y = conv_norm(self.channels, 1, activation=None)(y, train, mask)
        if y.shape != x.shape:
            return y
        return x + Dropout(self.drop_path, whole_rows=True)(y, train)
