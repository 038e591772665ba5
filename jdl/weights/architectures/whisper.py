"""Whisper (Radford et al., 2023), as Hugging Face has it, with Distil-Whisper's fewer blocks."""

from __future__ import annotations

from functools import partial

from jdl.layers import LayerNorm
from jdl.models.transformer import TransformerConfig
from jdl.models.whisper import Whisper
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    Architecture,
    Config,
    choose,
    dense,
    head,
    norm,
    require,
    value,
    with_and_without,
)
from jdl.weights.rules import LINEAR, Layout, Rule

# PyTorch's (outputs, inputs, width), and here an image (width, 1) of as many inputs.
CONV_OF_TIME = Layout(
    lambda x: x.transpose(2, 1, 0)[:, None], lambda kernel: kernel[:, 0].transpose(2, 1, 0)
)


def whisper(
    config: Config,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """Whisper of the sizes in config.json; encoder and decoder differ in their depth alone."""
    head(config, {"WhisperForConditionalGeneration": None, "WhisperModel": None})
    heads, mlp_width = value(config, "encoder_attention_heads"), value(config, "encoder_ffn_dim")
    require(
        config,
        decoder_attention_heads=heads,
        decoder_ffn_dim=mlp_width,
        scale_embedding=False,
        tie_word_embeddings=True,
        apply_spec_augment=False,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )
    sizes = TransformerConfig(
        width=value(config, "d_model"),
        depth=value(config, "encoder_layers"),
        heads=heads,
        mlp_width=mlp_width,
        max_length=value(config, "max_target_positions"),
        rotary=False,
        activation=choose(config, "activation_function", ACTIVATIONS),
        norm=partial(LayerNorm, epsilon=1e-5),
        dropout=config.get("dropout", 0.0) if dropout is None else dropout,
        remat=remat,
    )
    model = Whisper(
        value(config, "vocab_size"),
        sizes,
        n_mels=value(config, "num_mel_bins"),
        places=value(config, "max_source_positions"),
        decoder_depth=value(config, "decoder_layers"),
    )
    return Architecture(model, _rules())


def _rules() -> tuple[Rule, ...]:
    encoder, decoder = "model.encoder", "model.decoder"
    attention = {"self_attn": "attention"}
    rules = (
        *dense(f"{encoder}.conv1", "params/encoder/conv_0", CONV_OF_TIME),
        *dense(f"{encoder}.conv2", "params/encoder/conv_1", CONV_OF_TIME),
        Rule(f"{encoder}.embed_positions.weight", "constants/encoder/positions"),
        *_stack(encoder, "params/encoder/stack", attention),
        Rule(f"{decoder}.embed_tokens.weight", "params/tokens/table"),
        Rule(f"{decoder}.embed_positions.weight", "params/tokens/positions"),
        *_stack(decoder, "params/decoder", {**attention, "encoder_attn": "cross"}),
        Rule("proj_out.weight", None),  # the table once more
    )
    return with_and_without("model.", rules)


def _stack(theirs: str, ours: str, attention: dict[str, str]) -> tuple[Rule, ...]:
    """The rules of the blocks, whose attention layers have these names, and of the last norm."""
    layer, block = f"{theirs}.layers.{{}}", f"{ours}/block_{{}}"
    rules: tuple[Rule, ...] = ()
    for name, path in attention.items():
        layers = {"q_proj": "query", "v_proj": "value", "out_proj": "out"}
        rules += (
            *(
                r
                for n, p in layers.items()
                for r in dense(f"{layer}.{name}.{n}", f"{block}/{path}/{p}")
            ),
            Rule(f"{layer}.{name}.k_proj.weight", f"{block}/{path}/key/kernel", LINEAR),
            *norm(f"{layer}.{name}_layer_norm", f"{block}/{path}_norm"),
        )
    return (
        *rules,
        *dense(f"{layer}.fc1", f"{block}/feed_forward/in"),
        *dense(f"{layer}.fc2", f"{block}/feed_forward/out"),
        *norm(f"{layer}.final_layer_norm", f"{block}/feed_forward_norm"),
        *norm(f"{theirs}.layer_norm", f"{ours}/norm"),
    )
