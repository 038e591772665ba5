"""ConvNeXt (Liu et al., 2022), as Hugging Face and timm have it."""

from __future__ import annotations

from jdl.models.convnext import CHANNELS, ConvNeXt
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    Architecture,
    Config,
    choose,
    dense,
    norm,
    value,
    with_and_without,
)
from jdl.weights.architectures.parts import (
    POINTWISE,
    classes,
    timm_classes,
    timm_config,
    timm_name,
    with_head,
)
from jdl.weights.rules import CONV, LINEAR, Rule

BLOCK, HEAD = "params/stage_{}_block_{}", "params/head"
CONVNEXT_NAME = r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge)"
SMALLER = {  # of timm alone: channels of the first stage, and the blocks of the third
    "atto": (40, 6),
    "femto": (48, 6),
    "pico": (64, 6),
    "nano": (80, 8),
}


def convnext(
    config: Config, outputs: int | None = None, drop_path: float | None = None
) -> Architecture:
    """ConvNeXt of Hugging Face, with its head, with a new one of `outputs`, or without."""
    scale = value(config, "layer_scale_init_value")
    model = ConvNeXt(
        classes(config, outputs, "ConvNextForImageClassification", "ConvNextModel"),
        tuple(zip(value(config, "hidden_sizes"), value(config, "depths"), strict=True)),
        value(config, "patch_size"),
        layer_scale=scale if scale > 0 else None,
        drop_path=config.get("drop_path_rate", 0.0) if drop_path is None else drop_path,
        activation=choose(config, "hidden_act", ACTIVATIONS),
        head_epsilon=value(config, "layer_norm_eps"),
    )
    stage = "convnext.encoder.stages.{}"
    block = f"{stage}.layers.{{}}"
    backbone = (
        *dense("convnext.embeddings.patch_embeddings", "params/stem", CONV),
        *norm("convnext.embeddings.layernorm", "params/stem_norm"),
        *norm(f"{stage}.downsampling_layer.0", "params/norm_{}"),
        *dense(f"{stage}.downsampling_layer.1", "params/downsample_{}", CONV),
        *dense(f"{block}.dwconv", f"{BLOCK}/depthwise", CONV),
        *norm(f"{block}.layernorm", f"{BLOCK}/norm"),
        *dense(f"{block}.pwconv1", f"{BLOCK}/in"),
        *dense(f"{block}.pwconv2", f"{BLOCK}/out"),
        Rule(f"{block}.layer_scale_parameter", f"{BLOCK}/scale"),
        *norm("convnext.layernorm", "params/head_norm"),
    )
    rules = with_and_without("convnext.", backbone)
    return with_head(model, rules, dense("classifier", HEAD), outputs is not None)


def timm_convnext(
    config: Config, outputs: int | None = None, drop_path: float | None = None
) -> Architecture:
    """ConvNeXt of timm: "convnext_tiny"; the smallest, below "tiny", are not of the paper."""
    (size,) = timm_name(config, CONVNEXT_NAME)
    channels, blocks = (SMALLER | CHANNELS)[size]
    few = 2 if size in SMALLER else 3
    config = timm_config(
        config, depths=(few, few, blocks, few), dims=[channels * 2**n for n in range(4)]
    )
    stages = tuple(zip(config["dims"], config["depths"], strict=True))
    model = ConvNeXt(timm_classes(config, outputs), stages, drop_path=drop_path or 0.0)
    block = "stages.{}.blocks.{}"
    mlp = POINTWISE if size in SMALLER else LINEAR
    backbone = (
        *dense("stem.0", "params/stem", CONV),
        *norm("stem.1", "params/stem_norm"),
        *norm("stages.{}.downsample.0", "params/norm_{}"),
        *dense("stages.{}.downsample.1", "params/downsample_{}", CONV),
        *dense(f"{block}.conv_dw", f"{BLOCK}/depthwise", CONV),
        *norm(f"{block}.norm", f"{BLOCK}/norm"),
        *dense(f"{block}.mlp.fc1", f"{BLOCK}/in", mlp),
        *dense(f"{block}.mlp.fc2", f"{BLOCK}/out", mlp),
        Rule(f"{block}.gamma", f"{BLOCK}/scale"),
        *norm("head.norm", "params/head_norm"),
    )
    return with_head(model, backbone, dense("head.fc", HEAD), outputs is not None)
