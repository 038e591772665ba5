"""CLIP (Radford et al., 2021), as Hugging Face has it."""

from __future__ import annotations

from jdl.errors import Error
from jdl.models.clip import CLIP, TextTower
from jdl.models.vit import ViT
from jdl.weights.architectures.architecture import (
    Architecture,
    Config,
    dense,
    head,
    keys,
    norm,
    require,
    value,
)
from jdl.weights.architectures.parts import with_head
from jdl.weights.architectures.vit import patches, vit_sizes
from jdl.weights.rules import LINEAR, Layout, Rule

LARGEST = 2  # the eos_token_id of older files, in which the end of a text is its largest token
POSITIONS = Layout(lambda x: x[None], lambda x: x[0])
TOKEN = Layout(lambda x: x[None, None], lambda x: x[0, 0])


def clip(
    config: Config,
    outputs: int | None = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """CLIP: both towers, or with `outputs` that of images alone, as a ViT with a new head.

    The head reads the class token, as it is before the projection.
    """
    head(config, {"CLIPModel": None})
    image, text = _part(config, "vision_config"), _part(config, "text_config")
    require(image, num_channels=3)
    mlp_width = value(image, "intermediate_size")
    sizes = vit_sizes(image, dropout, remat, mlp_width=mlp_width)
    patch_size, pixels = value(image, "patch_size"), value(image, "image_size")
    vit = ViT(outputs, patch_size, sizes, "class", embedding_norm=True)
    others = (
        *_text("params/text"),
        Rule("visual_projection.weight", "params/image_projection/kernel", LINEAR),
        Rule("text_projection.weight", "params/text_projection/kernel", LINEAR),
        Rule("logit_scale", "params/log_scale"),
    )
    if outputs is not None:
        return with_head(vit, _image("params", patch_size), others, new=True)
    width = value(config, "projection_dim")
    model = CLIP(vit, _text_tower(text, dropout, remat), width, (pixels, pixels, 3))
    return Architecture(model, (*_image("params/image", patch_size), *others))


def _part(config: Config, name: str) -> Config:
    """The config of a tower; where an older file has it twice, the second one counts."""
    return {**value(config, name), **(config.get(f"{name}_dict") or {})}


def _text_tower(config: Config, dropout: float | None, remat: bool | str) -> TextTower:
    mlp_width, steps = value(config, "intermediate_size"), value(config, "max_position_embeddings")
    sizes = vit_sizes(config, dropout, remat, mlp_width=mlp_width, max_length=steps)
    if not isinstance(end := value(config, "eos_token_id"), int):
        raise Error(f"config.json has eos_token_id={end!r}, and jdl's CLIP has one end of a text.")
    return TextTower(value(config, "vocab_size"), sizes, None if end == LARGEST else end)


def _image(ours: str, patch_size: int) -> tuple[Rule, ...]:
    theirs = "vision_model"
    return (
        Rule(f"{theirs}.embeddings.class_embedding", f"{ours}/class_token", TOKEN),
        Rule(f"{theirs}.embeddings.position_embedding.weight", f"{ours}/positions", POSITIONS),
        patches(f"{theirs}.embeddings.patch_embedding", patch_size, f"{ours}/patches")[0],
        *norm(f"{theirs}.pre_layrnorm", f"{ours}/embedding_norm"),  # so it is spelled there
        *_layers(theirs, ours),
        *norm(f"{theirs}.post_layernorm", f"{ours}/stack/norm"),
    )


def _text(ours: str) -> tuple[Rule, ...]:
    theirs = "text_model"
    return (
        Rule(f"{theirs}.embeddings.token_embedding.weight", f"{ours}/tokens/table"),
        Rule(f"{theirs}.embeddings.position_embedding.weight", f"{ours}/tokens/positions"),
        *_layers(theirs, ours),
        *norm(f"{theirs}.final_layer_norm", f"{ours}/stack/norm"),
    )


def _layers(theirs: str, ours: str) -> tuple[Rule, ...]:
    layer, block = f"{theirs}.encoder.layers.{{}}", f"{ours}/stack/block_{{}}"
    return (
        *norm(f"{layer}.layer_norm1", f"{block}/attention_norm"),
        *dense(f"{layer}.self_attn.q_proj", f"{block}/attention/query"),
        *keys(f"{layer}.self_attn.k_proj", f"{block}/attention/key"),
        *dense(f"{layer}.self_attn.v_proj", f"{block}/attention/value"),
        *dense(f"{layer}.self_attn.out_proj", f"{block}/attention/out"),
        *norm(f"{layer}.layer_norm2", f"{block}/feed_forward_norm"),
        *dense(f"{layer}.mlp.fc1", f"{block}/feed_forward/in"),
        *dense(f"{layer}.mlp.fc2", f"{block}/feed_forward/out"),
        Rule(f"{theirs}.embeddings.position_ids", None),  # 0, 1, 2, ..., in older files
    )
