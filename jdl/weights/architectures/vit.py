"""ViT (Dosovitskiy et al., 2021), DeiT and DINOv2, as Hugging Face has them."""

from __future__ import annotations

from functools import partial
from typing import Any

from jdl.layers import LayerNorm
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    Architecture,
    Config,
    choose,
    dense,
    keys,
    norm,
    require,
    value,
    with_and_without,
)
from jdl.weights.architectures.parts import classes, with_head
from jdl.weights.rules import Layout, Rule

BLOCK, HEAD = "params/stack/block_{}", "params/head"


def vit(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """ViT: the class token is read by its head, by a new one of `outputs`, or by none."""
    sizes = vit_sizes(config, dropout, remat, mlp_width=value(config, "intermediate_size"))
    labels = classes(config, outputs, "ViTForImageClassification", "ViTModel")
    model = ViT(labels, value(config, "patch_size"), sizes, "class")
    backbone = (*_embeddings("vit.", model.patch_size), *_layers("vit."))
    rules = with_and_without("vit.", backbone)
    return with_head(model, rules, dense("classifier", HEAD), outputs is not None)


def deit(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """DeiT (Touvron et al., 2021), with two heads: of its class and of its distillation token."""
    sizes = vit_sizes(config, dropout, remat, mlp_width=value(config, "intermediate_size"))
    labels = classes(config, outputs, "DeiTForImageClassificationWithTeacher", "DeiTModel")
    model = ViT(labels, value(config, "patch_size"), sizes, "distilled")
    backbone = (
        *_embeddings("deit.", model.patch_size),
        Rule("deit.embeddings.distillation_token", "params/distillation_token"),
        *_layers("deit."),
    )
    heads = (
        *dense("cls_classifier", HEAD),
        *dense("distillation_classifier", "params/distillation_head"),
    )
    return with_head(model, with_and_without("deit.", backbone), heads, outputs is not None)


def dinov2(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """DINOv2 (Oquab et al., 2023): a head reads the class token and the mean of the patches."""
    require(config, use_swiglu_ffn=False)
    mlp_width = int(value(config, "mlp_ratio") * value(config, "hidden_size"))
    scale = value(config, "layerscale_value")
    sizes = vit_sizes(config, dropout, remat, mlp_width=mlp_width, layer_scale=scale)
    labels = classes(config, outputs, "Dinov2ForImageClassification", "Dinov2Model")
    model = ViT(labels, value(config, "patch_size"), sizes, "class and mean")
    layer = "dinov2.encoder.layer.{}"
    backbone = (
        *_embeddings("dinov2.", model.patch_size),
        *_attention(layer),
        *norm(f"{layer}.norm1", f"{BLOCK}/attention_norm"),
        *norm(f"{layer}.norm2", f"{BLOCK}/feed_forward_norm"),
        *dense(f"{layer}.mlp.fc1", f"{BLOCK}/feed_forward/in"),
        *dense(f"{layer}.mlp.fc2", f"{BLOCK}/feed_forward/out"),
        Rule(f"{layer}.layer_scale1.lambda1", f"{BLOCK}/attention_scale"),
        Rule(f"{layer}.layer_scale2.lambda1", f"{BLOCK}/feed_forward_scale"),
    )
    rules = with_and_without("dinov2.", backbone)
    return with_head(model, rules, dense("classifier", HEAD), outputs is not None)


def patches(theirs: str, patch_size: int, ours: str = "params/patches") -> tuple[Rule, Rule]:
    """The rules of the convolution that embeds patches: a dense layer of the pixels of each."""

    def to_kernel(x: Any) -> Any:  # OIHW
        return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def to_theirs(kernel: Any) -> Any:
        squares = kernel.reshape(patch_size, patch_size, -1, kernel.shape[1])
        return squares.transpose(3, 2, 0, 1)

    return dense(theirs, ours, Layout(to_kernel, to_theirs))


def vit_sizes(
    config: Config, dropout: float | None, remat: bool | str, **more: Any
) -> TransformerConfig:
    """The sizes of a ViT, by the names of its config.json."""
    require(config, qkv_bias=True)
    return TransformerConfig(
        width=value(config, "hidden_size"),
        depth=value(config, "num_hidden_layers"),
        heads=value(config, "num_attention_heads"),
        rotary=False,
        activation=choose(config, "hidden_act", ACTIVATIONS),
        norm=partial(LayerNorm, epsilon=value(config, "layer_norm_eps")),
        dropout=config.get("hidden_dropout_prob", 0.0) if dropout is None else dropout,
        remat=remat,
        **more,
    )


def _embeddings(prefix: str, patch_size: int) -> tuple[Rule, ...]:
    """The rules of what is before and after the layers."""
    embeddings = f"{prefix}embeddings"
    return (
        Rule(f"{embeddings}.cls_token", "params/class_token"),
        Rule(f"{embeddings}.mask_token", None),  # of pretraining with masked images
        Rule(f"{embeddings}.position_embeddings", "params/positions"),
        *patches(f"{embeddings}.patch_embeddings.projection", patch_size),
        *norm(f"{prefix}layernorm", "params/stack/norm"),
        Rule(f"{prefix}pooler.dense.weight", None),  # which no head reads
        Rule(f"{prefix}pooler.dense.bias", None),
    )


def _layers(prefix: str) -> tuple[Rule, ...]:
    layer = f"{prefix}encoder.layer.{{}}"
    return (
        *_attention(layer),
        *norm(f"{layer}.layernorm_before", f"{BLOCK}/attention_norm"),
        *norm(f"{layer}.layernorm_after", f"{BLOCK}/feed_forward_norm"),
        *dense(f"{layer}.intermediate.dense", f"{BLOCK}/feed_forward/in"),
        *dense(f"{layer}.output.dense", f"{BLOCK}/feed_forward/out"),
    )


def _attention(layer: str) -> tuple[Rule, ...]:
    theirs, ours = f"{layer}.attention.attention", f"{BLOCK}/attention"
    return (
        *dense(f"{theirs}.query", f"{ours}/query"),
        *keys(f"{theirs}.key", f"{ours}/key"),
        *dense(f"{theirs}.value", f"{ours}/value"),
        *dense(f"{layer}.attention.output.dense", f"{ours}/out"),
    )
