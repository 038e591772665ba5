"""BERT (Devlin et al., 2019), as Hugging Face has it.

MiniLM, and most encoders of sentence-transformers, are BERTs of other sizes.
"""

from __future__ import annotations

from dataclasses import replace

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
from jdl.weights.rules import SAME, Layout, Rule


def bert(
    config: Config,
    outputs: int | None = None,
    pool: Pool = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """BERT; see `encoder`."""
    sizes = encoder_sizes(config, value(config, "max_position_embeddings"), dropout, remat)
    return encoder(config, _family(), sizes, outputs, pool)


def _family() -> Family:
    masked = masked_head(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder",
    )
    next_sentence = (
        Rule("cls.seq_relationship.weight", None),
        Rule("cls.seq_relationship.bias", None),
    )
    masked = replace(masked, rules=(*with_old_names(masked.rules), *next_sentence))
    pooler = with_and_without("bert.", dense("bert.pooler.dense", POOLER))
    texts = Head({"pool": "first"}, (*pooler, *dense("classifier", HEAD)))
    heads = {**encoder_heads("Bert", masked, texts), "BertForPreTraining": masked}
    return Family(with_old_names(bert_backbone("bert.")), heads, pooler)


def bert_backbone(prefix: str, positions: Layout = SAME) -> tuple[Rule, ...]:
    """The rules of embeddings and blocks, with names that begin with the prefix or without it."""
    embeddings, layer = f"{prefix}embeddings", f"{prefix}encoder.layer.{{}}"
    rules = (
        Rule(f"{embeddings}.word_embeddings.weight", "params/tokens/table"),
        Rule(f"{embeddings}.position_embeddings.weight", "params/tokens/positions", positions),
        Rule(f"{embeddings}.token_type_embeddings.weight", "params/tokens/token_types"),
        *norm(f"{embeddings}.LayerNorm", "params/tokens/norm"),
        *dense(f"{layer}.attention.self.query", f"{BLOCK}/attention/query"),
        *keys(f"{layer}.attention.self.key", f"{BLOCK}/attention/key"),
        *dense(f"{layer}.attention.self.value", f"{BLOCK}/attention/value"),
        *dense(f"{layer}.attention.output.dense", f"{BLOCK}/attention/out"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{BLOCK}/attention_norm"),
        *dense(f"{layer}.intermediate.dense", f"{BLOCK}/feed_forward/in"),
        *dense(f"{layer}.output.dense", f"{BLOCK}/feed_forward/out"),
        *norm(f"{layer}.output.LayerNorm", f"{BLOCK}/feed_forward_norm"),
        Rule(f"{embeddings}.position_ids", None),  # 0, 1, 2, ..., in older files
    )
    return with_and_without(prefix, rules)


def with_old_names(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules, and also those for files that call the scale and bias of a norm gamma and beta."""

    def old(rule: Rule) -> Rule:
        name = rule.theirs.replace("LayerNorm.weight", "LayerNorm.gamma")
        return replace(rule, theirs=name.replace("LayerNorm.bias", "LayerNorm.beta"))

    return (*rules, *(old(rule) for rule in rules if "LayerNorm" in rule.theirs))
