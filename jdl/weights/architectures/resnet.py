"""ResNet (He et al., 2016) of Hugging Face, timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jdl.errors import Error
from jdl.models.resnet import BLOCKS, ResNet
from jdl.weights.architectures.architecture import Architecture
from jdl.weights.architectures.parts import Config, conv_norm, dense, outputs, value
from jdl.weights.rules import Rule

Stages = Sequence[tuple[int, int]]  # channels and number of blocks of each
Names = Callable[[int, int, int], tuple[str, str]]  # of a convolution, and of its norm


def resnet(config: Config) -> Architecture:
    """ResNet of Hugging Face: `ResNetForImageClassification`, or the backbone `ResNetModel`."""
    value(config, "hidden_act", "relu")
    value(config, "num_channels", 3)
    value(config, "downsample_in_first_stage", False)
    value(config, "downsample_in_bottleneck", False)  # with stride 2 in the 3 x 3 convolution
    bottleneck = value(config, "layer_type", "bottleneck", "basic") == "bottleneck"
    widths = [width // (4 if bottleneck else 1) for width in config["hidden_sizes"]]
    if config["embedding_size"] != widths[0]:
        raise Error(
            f"The config has embedding_size {config['embedding_size']}, which must be that of the "
            f"first stage's inner convolutions, {widths[0]}."
        )
    stages = tuple(zip(widths, config["depths"], strict=True))
    classes = outputs(config, "ResNetForImageClassification")
    backbone = "" if classes is None else "resnet."

    def names(stage: int, block: int, n: int) -> tuple[str, str]:
        shortcut = n == (3 if bottleneck else 2)
        part = "shortcut" if shortcut else f"layer.{n}"
        layer = f"{backbone}encoder.stages.{stage}.layers.{block}.{part}"
        return f"{layer}.convolution", f"{layer}.normalization"

    stem = f"{backbone}embedder.embedder"
    rules = (
        *conv_norm(f"{stem}.convolution", f"{stem}.normalization", "ConvNorm_0"),
        *_blocks(stages, bottleneck, names),
        *dense("classifier.1", "head"),
    )
    return Architecture(_model(classes, stages, bottleneck), rules)


def timm_resnet(config: Config) -> Architecture:
    """The published ResNets of timm, whose names torchvision has too: "resnet18" to "resnet152"."""
    depth = int(config["architecture"].removeprefix("resnet"))
    stages = tuple(zip((64, 128, 256, 512), BLOCKS[depth], strict=True))
    return torchvision_resnet(config["num_classes"] or None, stages, depth >= 50)


def torchvision_resnet(classes: int | None, stages: Stages, bottleneck: bool) -> Architecture:
    """ResNet of torchvision and timm, of any size; without classes the backbone."""

    def names(stage: int, block: int, n: int) -> tuple[str, str]:
        layer = f"layer{stage + 1}.{block}"
        if n == (3 if bottleneck else 2):
            return f"{layer}.downsample.0", f"{layer}.downsample.1"
        return f"{layer}.conv{n + 1}", f"{layer}.bn{n + 1}"

    rules = (
        *conv_norm("conv1", "bn1", "ConvNorm_0"),
        *_blocks(stages, bottleneck, names),
        *dense("fc", "head"),
    )
    return Architecture(_model(classes, stages, bottleneck), rules)


def _model(classes: int | None, stages: Stages, bottleneck: bool) -> ResNet:
    return ResNet(classes, stages, bottleneck, large_images=True, symmetric_padding=True)


def _blocks(stages: Stages, bottleneck: bool, names: Names) -> list[Rule]:
    """The rules of all residual blocks, which are numbered here through all stages.

    The shortcut, which only the first block of a stage can have, is the last convolution of it.
    """
    blocks = [(stage, block) for stage, (_, n) in enumerate(stages) for block in range(n)]
    return [
        rule
        for number, (stage, block) in enumerate(blocks)
        for n in range((3 if bottleneck else 2) + (block == 0))
        for rule in conv_norm(*names(stage, block, n), f"Block_{number}/ConvNorm_{n}")
    ]
