"""T5 (Raffel et al., 2020), T5 v1.1, Flan-T5 and mT5 (Xue et al., 2021), as Hugging Face has them.

ByT5 is a T5 v1.1 of bytes, whose decoder has fewer blocks.
"""

from __future__ import annotations

from functools import partial

from jdl.layers import RMSNorm
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.weights.architectures.architecture import (
    ACTIVATIONS,
    Architecture,
    Config,
    choose,
    head,
    require,
    value,
)
from jdl.weights.rules import LINEAR, Rule

# By the name that config.json has; that of "gated-gelu" is the approximation by tanh.
FEED_FORWARD = {
    **{name: (activation, False) for name, activation in ACTIVATIONS.items()},
    **{f"gated-{name}": (activation, True) for name, activation in ACTIVATIONS.items()},
    "gated-gelu": (ACTIVATIONS["gelu_new"], True),
}


def t5(
    config: Config,
    max_length: int = 512,
    tied: bool | None = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """T5, and the form v1.1, whose feed-forward is gated and whose head is a layer of its own.

    Texts have up to `max_length` tokens: relative positions have no limit. `tied` says whether the
    embeddings give the logits; config.json says it in part, and by default they do in T5 alone,
    whose logits are scaled.
    """
    head(config, {"T5ForConditionalGeneration": None, "T5WithLMHeadModel": None})
    # transformers 5 writes tie_word_embeddings=true always, and this beside it.
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    tied = scaled if tied is None else tied
    return _architecture(config, max_length, tied, scaled, dropout, remat)


def mt5(
    config: Config,
    max_length: int = 512,
    tied: bool = False,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """mT5: T5 v1.1 of 101 languages."""
    head(config, {"MT5ForConditionalGeneration": None})
    return _architecture(config, max_length, tied, False, dropout, remat)


def _architecture(
    config: Config,
    max_length: int,
    tied: bool,
    scaled: bool,
    dropout: float | None,
    remat: bool | str,
) -> Architecture:
    require(config, is_encoder_decoder=True)
    name = {"feed_forward_proj": "relu" if config["model_type"] == "t5" else "gated-gelu"}
    activation, gated = choose({**name, **config}, "feed_forward_proj", FEED_FORWARD)
    width = value(config, "d_model")
    sizes = TransformerConfig(
        width=width,
        depth=value(config, "num_layers"),
        heads=value(config, "num_heads"),
        head_width=value(config, "d_kv"),
        mlp_width=value(config, "d_ff"),
        max_length=max_length,
        rotary=False,
        relative_buckets=value(config, "relative_attention_num_buckets"),
        relative_distance=config.get("relative_attention_max_distance", 128),
        attention_scale=1.0,
        gated=gated,
        biases=(),
        activation=activation,
        norm=partial(RMSNorm, epsilon=value(config, "layer_norm_epsilon")),
        dropout=config.get("dropout_rate", 0.1) if dropout is None else dropout,
        remat=remat,
    )
    model = T5(
        value(config, "vocab_size"),
        sizes,
        tied=tied,
        logits_scale=width**-0.5 if scaled else 1.0,
        decoder_depth=config.get("num_decoder_layers"),
    )
    return Architecture(model, _rules(tied, gated))


def _rules(tied: bool, gated: bool) -> tuple[Rule, ...]:
    return (
        Rule("shared.weight", "params/tokens/table"),
        Rule("encoder.embed_tokens.weight", None),  # the table once more
        Rule("decoder.embed_tokens.weight", None),
        *_stack("encoder", ("SelfAttention", "DenseReluDense"), gated),
        *_stack("decoder", ("SelfAttention", "EncDecAttention", "DenseReluDense"), gated),
        # In older files: cross-attention has no positions.
        Rule("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None),
        Rule("lm_head.weight", None if tied else "params/head/kernel", LINEAR),
    )


def _stack(stack: str, sublayers: tuple[str, ...], gated: bool) -> tuple[Rule, ...]:
    """The rules of the encoder or the decoder, whose blocks have these sublayers."""
    ours = {
        "SelfAttention": "attention",
        "EncDecAttention": "cross",
        "DenseReluDense": "feed_forward",
    }
    attention = {"q": "query", "k": "key", "v": "value", "o": "out"}
    feed_forward = {"wi_0": "gate", "wi_1": "in"} if gated else {"wi": "in"}
    rules = [
        Rule(
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"params/{stack}/relative_bias/table",
        ),
        Rule(f"{stack}.final_layer_norm.weight", f"params/{stack}/norm/scale"),
    ]
    for n, name in enumerate(sublayers):
        theirs = f"{stack}.block.{{}}.layer.{n}"
        path = f"params/{stack}/block_{{}}/{ours[name]}"
        layers = attention if "Attention" in name else {**feed_forward, "wo": "out"}
        rules.append(Rule(f"{theirs}.layer_norm.weight", f"{path}_norm/scale"))
        rules += (
            Rule(f"{theirs}.{name}.{layer}.weight", f"{path}/{place}/kernel", LINEAR)
            for layer, place in layers.items()
        )
    return tuple(rules)
