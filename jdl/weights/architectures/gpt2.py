"""GPT-2 (Radford et al., 2019), as Hugging Face has it."""

from __future__ import annotations

from functools import partial

import numpy as np

from jdl.layers import LayerNorm
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    FUSED_BIAS,
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
from jdl.weights.rules import SAME, Layout, Rule

FUSED = Layout(lambda x: np.split(x, 3, -1), lambda *parts: np.concatenate(parts, -1))


def gpt2(config: Config, dropout: float | None = None, remat: bool | str = False) -> Architecture:
    """GPT-2 of the sizes in config.json; kernels are stored (inputs, outputs), as here."""
    head(config, {"GPT2LMHeadModel": None, "GPT2Model": None})
    require(
        config,
        tie_word_embeddings=True,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    sizes = TransformerConfig(
        width=value(config, "n_embd"),
        depth=value(config, "n_layer"),
        heads=value(config, "n_head"),
        mlp_width=config.get("n_inner"),
        max_length=value(config, "n_positions"),
        rotary=False,
        activation=choose(config, "activation_function", ACTIVATIONS),
        norm=partial(LayerNorm, epsilon=config.get("layer_norm_epsilon", 1e-5)),
        dropout=config.get("resid_pdrop", 0.1) if dropout is None else dropout,
        remat=remat,
    )
    return Architecture(GPT(value(config, "vocab_size"), sizes), _rules())


def _rules() -> tuple[Rule, ...]:
    theirs, ours = "transformer.h.{}", "params/stack/block_{}"
    attention = tuple(f"{ours}/attention/{name}" for name in ("query", "key", "value"))
    kernels = tuple(f"{path}/kernel" for path in attention)
    rules = (
        Rule("transformer.wte.weight", "params/tokens/table"),
        Rule("transformer.wpe.weight", "params/tokens/positions"),
        *norm(f"{theirs}.ln_1", f"{ours}/attention_norm"),
        Rule(f"{theirs}.attn.c_attn.weight", kernels, FUSED),
        Rule(
            f"{theirs}.attn.c_attn.bias",
            (f"{attention[0]}/bias", f"{attention[2]}/bias"),
            FUSED_BIAS,
        ),
        *dense(f"{theirs}.attn.c_proj", f"{ours}/attention/out", SAME),
        *norm(f"{theirs}.ln_2", f"{ours}/feed_forward_norm"),
        *dense(f"{theirs}.mlp.c_fc", f"{ours}/feed_forward/in", SAME),
        *dense(f"{theirs}.mlp.c_proj", f"{ours}/feed_forward/out", SAME),
        *norm("transformer.ln_f", "params/stack/norm"),
        Rule(f"{theirs}.attn.bias", None),  # the causal mask, in older files
        Rule(f"{theirs}.attn.masked_bias", None),
        Rule("lm_head.weight", None),  # the table once more
    )
    return with_and_without("transformer.", rules)
