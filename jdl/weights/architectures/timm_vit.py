"""ViT, DeiT and DINOv2, as timm has them."""

from __future__ import annotations

from functools import partial

import numpy as np

from jdl.layers import LayerNorm
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    FUSED_BIAS,
    Architecture,
    Config,
    dense,
    norm,
    require,
)
from jdl.weights.architectures.parts import timm_classes, timm_config, timm_name, with_head
from jdl.weights.architectures.vit import BLOCK, HEAD, patches
from jdl.weights.rules import Layout, Rule

VIT_NAME = r"(?:vit|deit)_(tiny|small|base|large)_(distilled_)?patch(\d+)_(\d+|dinov2)"
SIZES = {  # width, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
FUSED = Layout(
    lambda x: [part.T for part in np.split(x, 3)],
    lambda *parts: np.concatenate([part.T for part in parts]),
)


def timm_vit(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """ViT, DeiT and DINOv2 of timm: a head, of the file or a new one, reads the class token.

    DINOv2 is published without a head, and gives the class token. A distilled DeiT has two heads.
    """
    size, distilled, patch_size, kind = timm_name(config, VIT_NAME)
    width, depth, heads = SIZES[size]
    config = timm_config(
        config,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        patch_size=int(patch_size),
        img_size=None,  # what images decide: their number of patches
    )
    require(config, global_pool="token")
    sizes = TransformerConfig(
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        rotary=False,
        activation=ACTIVATIONS["gelu"],
        norm=partial(LayerNorm, epsilon=1e-6),
        dropout=dropout or 0.0,
        layer_scale=1e-5 if kind == "dinov2" else None,
        remat=remat,
    )
    labels = timm_classes(config, outputs)
    model = ViT(labels, config["patch_size"], sizes, "distilled" if distilled else "class")
    head_rules = (*dense("head", HEAD), *dense("head_dist", "params/distillation_head"))
    return with_head(model, _backbone(model.patch_size), head_rules, outputs is not None)


def _backbone(patch_size: int) -> tuple[Rule, ...]:
    theirs, attention = "blocks.{}", f"{BLOCK}/attention"
    kernels = tuple(f"{attention}/{name}/kernel" for name in ("query", "key", "value"))
    biases = f"{attention}/query/bias", f"{attention}/value/bias"
    return (
        Rule("cls_token", "params/class_token"),
        Rule("dist_token", "params/distillation_token"),
        Rule("pos_embed", "params/positions"),
        *patches("patch_embed.proj", patch_size),
        *norm(f"{theirs}.norm1", f"{BLOCK}/attention_norm"),
        Rule(f"{theirs}.attn.qkv.weight", kernels, FUSED),
        Rule(f"{theirs}.attn.qkv.bias", biases, FUSED_BIAS),
        *dense(f"{theirs}.attn.proj", f"{attention}/out"),
        Rule(f"{theirs}.ls1.gamma", f"{BLOCK}/attention_scale"),
        *norm(f"{theirs}.norm2", f"{BLOCK}/feed_forward_norm"),
        *dense(f"{theirs}.mlp.fc1", f"{BLOCK}/feed_forward/in"),
        *dense(f"{theirs}.mlp.fc2", f"{BLOCK}/feed_forward/out"),
        Rule(f"{theirs}.ls2.gamma", f"{BLOCK}/feed_forward_scale"),
        *norm("norm", "params/stack/norm"),
    )
