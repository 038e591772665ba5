"""DistilBERT (Sanh et al., 2019), as Hugging Face has it."""

from __future__ import annotations

import flax.linen as nn

from jdl.weights.architectures.architecture import (
    Architecture,
    Config,
    dense,
    keys,
    norm,
    value,
    with_and_without,
)
from jdl.weights.architectures.encoder import (
    BLOCK,
    HEAD,
    POOLER,
    Family,
    Head,
    Pool,
    encoder,
    encoder_heads,
    encoder_sizes,
    masked_head,
)
from jdl.weights.rules import Rule

AS_BERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


def distilbert(
    config: Config,
    outputs: int | None = None,
    pool: Pool = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """DistilBERT: BERT without types of tokens; its pooler, with a ReLU, is a part of the head."""
    config = {
        **config,
        **{ours: value(config, theirs) for ours, theirs in AS_BERT.items()},
        "hidden_dropout_prob": config.get("dropout", 0.1),
        "type_vocab_size": 0,
    }
    sizes = encoder_sizes(config, value(config, "max_position_embeddings"), dropout, remat)
    return encoder(config, _family(), sizes, outputs, pool)


def _family() -> Family:
    masked = masked_head(
        "vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector"
    )
    texts = (*dense("pre_classifier", POOLER), *dense("classifier", HEAD))
    heads = encoder_heads("DistilBert", masked, Head({"pool": "first"}, texts))
    return Family(_backbone("distilbert."), heads, fields={"pool_activation": nn.relu})


def _backbone(prefix: str) -> tuple[Rule, ...]:
    embeddings, layer = f"{prefix}embeddings", f"{prefix}transformer.layer.{{}}"
    rules = (
        Rule(f"{embeddings}.word_embeddings.weight", "params/tokens/table"),
        Rule(f"{embeddings}.position_embeddings.weight", "params/tokens/positions"),
        *norm(f"{embeddings}.LayerNorm", "params/tokens/norm"),
        *dense(f"{layer}.attention.q_lin", f"{BLOCK}/attention/query"),
        *keys(f"{layer}.attention.k_lin", f"{BLOCK}/attention/key"),
        *dense(f"{layer}.attention.v_lin", f"{BLOCK}/attention/value"),
        *dense(f"{layer}.attention.out_lin", f"{BLOCK}/attention/out"),
        *norm(f"{layer}.sa_layer_norm", f"{BLOCK}/attention_norm"),
        *dense(f"{layer}.ffn.lin1", f"{BLOCK}/feed_forward/in"),
        *dense(f"{layer}.ffn.lin2", f"{BLOCK}/feed_forward/out"),
        *norm(f"{layer}.output_layer_norm", f"{BLOCK}/feed_forward_norm"),
    )
    return with_and_without(prefix, rules)
