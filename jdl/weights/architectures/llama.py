"""Llama (Touvron et al., 2023), and Mistral, Qwen 2 and Qwen 3, as Hugging Face has them.

SmolLM, TinyLlama and many others are Llamas of other sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax

from jdl.errors import Error
from jdl.layers import (
    RMSNorm,
    linear_rotary_frequencies,
    llama3_rotary_frequencies,
    rotary_frequencies,
)
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    Architecture,
    Config,
    choose,
    head,
    require,
    value,
    with_and_without,
)
from jdl.weights.rules import LINEAR, Rule

BLOCK = "params/stack/block_{}"
SCALING: dict[str, tuple[Callable[..., jax.Array], tuple[str, ...]]] = {
    "default": (rotary_frequencies, ()),
    "linear": (linear_rotary_frequencies, ("factor",)),
    "llama3": (
        llama3_rotary_frequencies,
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    ),
}


def llama(
    config: Config,
    max_length: int | None = None,
    dropout: float = 0.0,
    remat: bool | str = False,
) -> Architecture:
    """Llama: RMSNorm, SwiGLU, grouped queries and RoPE, without biases.

    The KV cache holds `max_length` tokens, by default as many as config.json says.
    """
    require(config, attention_bias=False, mlp_bias=False, rope_interleaved=False)
    return _decoder(config, "Llama", max_length, dropout, remat)


def mistral(
    config: Config,
    max_length: int | None = None,
    dropout: float = 0.0,
    remat: bool | str = False,
) -> Architecture:
    """Mistral (Jiang et al., 2023): Llama with sliding window attention."""
    return _decoder(config, "Mistral", max_length, dropout, remat)


def qwen2(
    config: Config,
    max_length: int | None = None,
    dropout: float = 0.0,
    remat: bool | str = False,
) -> Architecture:
    """Qwen 2 and 2.5 (Yang et al., 2024): Llama with biases of queries, keys and values."""
    biases = ("query", "key", "value")
    return _decoder(config, "Qwen2", max_length, dropout, remat, biases=biases)


def qwen3(
    config: Config,
    max_length: int | None = None,
    dropout: float = 0.0,
    remat: bool | str = False,
) -> Architecture:
    """Qwen 3 (Yang et al., 2025): Llama that normalizes the queries and keys of each head."""
    require(config, attention_bias=False)
    return _decoder(config, "Qwen3", max_length, dropout, remat, query_key_norm=True)


def _decoder(
    config: Config,
    name: str,
    max_length: int | None,
    dropout: float,
    remat: bool | str,
    biases: tuple[str, ...] = (),
    query_key_norm: bool = False,
) -> Architecture:
    head(config, {f"{name}ForCausalLM": None, f"{name}Model": None})
    heads, longest = value(config, "num_attention_heads"), value(config, "max_position_embeddings")
    max_length = longest if max_length is None else max_length
    if max_length > longest:
        raise Error(
            f"max_length {max_length} is above the config.json's max_position_embeddings {longest}."
        )
    sizes = TransformerConfig(
        width=value(config, "hidden_size"),
        depth=value(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim"),
        mlp_width=value(config, "intermediate_size"),
        max_length=max_length,
        rotary_frequencies=_frequencies(config),
        window=_window(config, max_length),
        gated=True,
        query_key_norm=query_key_norm,
        biases=biases,
        activation=choose(config, "hidden_act", ACTIVATIONS),
        norm=partial(RMSNorm, epsilon=value(config, "rms_norm_eps")),
        dropout=dropout,
        remat=remat,
    )
    tied = config.get("tie_word_embeddings", False)
    model = GPT(value(config, "vocab_size"), sizes, tied)
    return Architecture(model, _rules(biases, query_key_norm, tied))


def _window(config: Config, max_length: int) -> int | None:
    """The sliding window of all blocks; None where sequences are no longer, or none has one.

    Qwen names the blocks that have it: those of `layer_types`, or in older files those after the
    first `max_window_layers`. Raises `Error` for some alone.
    """
    window = config.get("sliding_window")
    if window is None or window >= max_length or not config.get("use_sliding_window", True):
        return None
    blocks = value(config, "num_hidden_layers")
    first = value(config, "max_window_layers") if "use_sliding_window" in config else 0
    has = [block >= first for block in range(blocks)]
    if kinds := config.get("layer_types"):
        has = [kind == "sliding_attention" for kind in kinds]
    if any(has) and not all(has):
        raise Error(
            f"config.json has sliding_window={window} in {sum(has)} of {blocks} blocks, and jdl's "
            f"{config.get('model_type')} in all or none: give max_length={window} or less, for "
            "which they are the same."
        )
    return int(window) if all(has) else None


def _frequencies(config: Config) -> Callable[[int], jax.Array]:
    """The frequencies of RoPE, scaled as config.json says, in its old form or its new one."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    config = {"rope_theta": 10_000.0, **config, **scaling}
    require(config, partial_rotary_factor=1.0)
    config.setdefault("rope_type", config.get("type", "default"))
    function, names = choose(config, "rope_type", SCALING)
    return partial(
        function, base=config["rope_theta"], **{name: value(config, name) for name in names}
    )


def _rules(biases: tuple[str, ...], query_key_norm: bool, tied: bool) -> tuple[Rule, ...]:
    layer = "model.layers.{}"
    short = {"query": "q", "key": "k", "value": "v"}
    attention, ours = f"{layer}.self_attn", f"{BLOCK}/attention"
    places = {
        **{f"{attention}.{q}_proj": f"{ours}/{name}" for name, q in short.items()},
        f"{attention}.o_proj": f"{ours}/out",
        f"{layer}.mlp.gate_proj": f"{BLOCK}/feed_forward/gate",
        f"{layer}.mlp.up_proj": f"{BLOCK}/feed_forward/in",
        f"{layer}.mlp.down_proj": f"{BLOCK}/feed_forward/out",
    }
    norms = {
        f"{layer}.input_layernorm": f"{BLOCK}/attention_norm",
        f"{layer}.post_attention_layernorm": f"{BLOCK}/feed_forward_norm",
        "model.norm": "params/stack/norm",
    }
    if query_key_norm:
        norms |= {f"{attention}.{short[n]}_norm": f"{ours}/{n}_norm" for n in ("query", "key")}
    rules = (
        Rule("model.embed_tokens.weight", "params/tokens/table"),
        *(Rule(f"{theirs}.weight", f"{path}/kernel", LINEAR) for theirs, path in places.items()),
        *(Rule(f"{attention}.{short[n]}_proj.bias", f"{ours}/{n}/bias") for n in biases),
        *(Rule(f"{theirs}.weight", f"{path}/scale") for theirs, path in norms.items()),
        Rule(f"{attention}.rotary_emb.inv_freq", None),  # in older files
        Rule("lm_head.weight", None if tied else "params/head/kernel", LINEAR),
    )
    return with_and_without("model.", rules)
