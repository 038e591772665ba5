"""ResNet (He et al., 2016), as Hugging Face, timm and torchvision have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jdl.errors import Error
from jdl.models.resnet import BLOCKS, ResNet
from jdl.weights.architectures.architecture import (
    Architecture,
    Config,
    choose,
    dense,
    require,
    value,
    with_and_without,
)
from jdl.weights.architectures.parts import (
    classes,
    conv_norm,
    timm_classes,
    timm_config,
    timm_name,
    with_head,
)
from jdl.weights.rules import Rule

RESNET_NAME = r"resnet(18|34|50|101|152)"
Stages = Sequence[tuple[int, int]]  # channels and number of blocks of each
Names = Callable[[int, int, int], tuple[str, str]]  # of a convolution, and of its norm


def resnet(config: Config, outputs: int | None = None) -> Architecture:
    """ResNet of Hugging Face, with its head, with a new one of `outputs`, or as a backbone."""
    require(
        config,
        hidden_act="relu",
        downsample_in_first_stage=False,
        downsample_in_bottleneck=False,  # but in the 3 x 3 convolution
    )
    bottleneck = choose(config, "layer_type", {"basic": False, "bottleneck": True})
    factor = 4 if bottleneck else 1
    widths = [width // factor for width in value(config, "hidden_sizes")]
    if value(config, "embedding_size") != widths[0]:
        raise Error(
            f"config.json has embedding_size={config['embedding_size']}, and jdl's stem has the "
            f"channels of the first stage's inner convolutions, {widths[0]}."
        )
    stages = tuple(zip(widths, value(config, "depths"), strict=True))

    def names(stage: int, block: int, n: int) -> tuple[str, str]:
        part = "shortcut" if n == _convolutions(bottleneck) else f"layer.{n}"
        layer = f"resnet.encoder.stages.{stage}.layers.{block}.{part}"
        return f"{layer}.convolution", f"{layer}.normalization"

    stem = "resnet.embedder.embedder"
    backbone = (
        *conv_norm(f"{stem}.convolution", f"{stem}.normalization", "ConvNorm_0"),
        *_blocks(stages, bottleneck, names),
    )
    labels = classes(config, outputs, "ResNetForImageClassification", "ResNetModel")
    model, rules = _model(labels, stages, bottleneck), with_and_without("resnet.", backbone)
    return with_head(model, rules, dense("classifier.1", "params/head"), outputs is not None)


def timm_resnet(config: Config, outputs: int | None = None) -> Architecture:
    """The published ResNets of timm, with the names that torchvision has: 18 to 152."""
    config = timm_config(config)
    (depth,) = map(int, timm_name(config, RESNET_NAME))
    stages = tuple(zip((64, 128, 256, 512), BLOCKS[depth], strict=True))
    return torchvision_resnet(stages, depth >= 50, timm_classes(config, None), outputs)


def torchvision_resnet(
    stages: Stages, bottleneck: bool, labels: int | None, outputs: int | None = None
) -> Architecture:
    """ResNet of any size with the names of torchvision, whose head has as many `labels`."""

    def names(stage: int, block: int, n: int) -> tuple[str, str]:
        layer = f"layer{stage + 1}.{block}"
        if n == _convolutions(bottleneck):
            return f"{layer}.downsample.0", f"{layer}.downsample.1"
        return f"{layer}.conv{n + 1}", f"{layer}.bn{n + 1}"

    backbone = (*conv_norm("conv1", "bn1", "ConvNorm_0"), *_blocks(stages, bottleneck, names))
    model = _model(labels if outputs is None else outputs, stages, bottleneck)
    return with_head(model, backbone, dense("fc", "params/head"), outputs is not None)


def _model(outputs: int | None, stages: Stages, bottleneck: bool) -> ResNet:
    return ResNet(outputs, stages, bottleneck, large_images=True, symmetric_padding=True)


def _convolutions(bottleneck: bool) -> int:
    """The convolutions of a block; that of its shortcut, where it has one, comes after them."""
    return 3 if bottleneck else 2


def _blocks(stages: Stages, bottleneck: bool, names: Names) -> list[Rule]:
    """The rules of the residual blocks, whose numbers here go on through all stages."""
    blocks = [(stage, block) for stage, (_, n) in enumerate(stages) for block in range(n)]
    return [
        rule
        for number, (stage, block) in enumerate(blocks)
        for n in range(_convolutions(bottleneck) + (block == 0))
        for rule in conv_norm(*names(stage, block, n), f"Block_{number}/ConvNorm_{n}")
    ]
