"""EfficientNet (Tan and Le, 2019), MobileNetV2 and MobileNetV3, as timm has them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jdl.models.efficientnet import (
    LARGE_IMAGES,
    MOBILENET_V2,
    EfficientNet,
    efficientnet,
    mobilenet_v3,
)
from jdl.weights.architectures.architecture import Architecture, Config, dense
from jdl.weights.architectures.parts import (
    POINTWISE,
    conv_norm,
    timm_classes,
    timm_config,
    timm_name,
    with_head,
)
from jdl.weights.rules import Rule

EFFICIENTNET_NAME = r"(tf_)?efficientnet_b([0-7])"
MOBILENET_NAME = r"mobilenetv2_(100|140)"
MOBILENET_V3_NAME = r"(tf_)?mobilenetv3_(large|small)_100"


def timm_efficientnet(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> Architecture:
    """EfficientNet of timm: "efficientnet_b0", trained by PyTorch, or "tf_efficientnet_b0"."""
    config = timm_config(config)
    tensorflow, size = timm_name(config, EFFICIENTNET_NAME)
    labels = timm_classes(config, outputs)
    changes = _given(dropout=dropout, drop_path=drop_path)
    model = efficientnet(int(size), labels, **_form(tensorflow), **changes)
    return timm_inverted_residuals(model, outputs is not None)


def timm_mobilenet_v2(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> Architecture:
    """MobileNetV2 of timm, of width 1 or 1.4: "mobilenetv2_100"."""
    config = timm_config(config)
    (percent,) = timm_name(config, MOBILENET_NAME)
    labels = timm_classes(config, outputs)
    model = EfficientNet(
        labels,
        int(percent) / 100,
        stages=MOBILENET_V2,
        strides=LARGE_IMAGES,
        squeeze_ratio=0.0,
        activation=nn.relu6,
        symmetric_padding=True,
        **{"drop_path": 0.0, **_given(dropout=dropout, drop_path=drop_path)},
    )
    return timm_inverted_residuals(model, outputs is not None)


def timm_mobilenet_v3(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> Architecture:
    """MobileNetV3 of timm: "mobilenetv3_large_100", or "tf_mobilenetv3_large_100"."""
    config = timm_config(config)
    tensorflow, size = timm_name(config, MOBILENET_V3_NAME)
    changes = _given(dropout=dropout, drop_path=drop_path)
    model = mobilenet_v3(size, timm_classes(config, outputs), **_form(tensorflow), **changes)
    return timm_inverted_residuals(model, outputs is not None)


def timm_inverted_residuals(model: EfficientNet, new_head: bool) -> Architecture:
    """A model of inverted residual blocks, of any size, with the names of timm."""
    blocks = [
        (f"blocks.{n}.{block}", expansion > 1)
        for n, stage in enumerate(model.stages)
        for block, expansion in enumerate(stage.expansions(model.depth))
    ]
    top = f"blocks.{len(model.stages)}.0"
    last = (
        (
            *conv_norm(f"{top}.conv", f"{top}.bn1", "ConvNorm_1"),
            *dense("conv_head", "params/hidden", POINTWISE),
        )
        if model.hidden
        else conv_norm("conv_head", "bn2", "ConvNorm_1")
    )
    backbone = (
        *conv_norm("conv_stem", "bn1", "ConvNorm_0"),
        *(
            rule
            for n, (theirs, expands) in enumerate(blocks)
            for rule in _block(theirs, f"InvertedResidual_{n}", expands)
        ),
        *last,
    )
    return with_head(model, backbone, dense("classifier", "params/head"), new_head)


def _block(theirs: str, ours: str, expands: bool) -> list[Rule]:
    names = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
    convolutions = [
        rule
        for n, name in enumerate(names)
        for rule in conv_norm(f"{theirs}.{name}", f"{theirs}.bn{n + 1}", f"{ours}/ConvNorm_{n}")
    ]
    return [
        *convolutions,
        *dense(f"{theirs}.se.conv_reduce", f"params/{ours}/Dense_0", POINTWISE),
        *dense(f"{theirs}.se.conv_expand", f"params/{ours}/Dense_1", POINTWISE),
    ]


def _form(tensorflow: str) -> dict[str, Any]:
    """What depends on where the weights were trained: in TensorFlow, or else in PyTorch."""
    return {"epsilon": 1e-3} if tensorflow else {"symmetric_padding": True}


def _given(**changes: Any) -> dict[str, Any]:
    return {name: change for name, change in changes.items() if change is not None}
