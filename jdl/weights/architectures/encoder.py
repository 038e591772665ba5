"""What BERT and its relatives have in common: sizes, heads, and a new head in the place of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jdl.errors import Error
from jdl.layers import LayerNorm
from jdl.models.bert import BERT
from jdl.models.transformer import TransformerConfig
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
)
from jdl.weights.rules import Rule

Pool = bool | str | None
BLOCK, HEAD, POOLER = "params/stack/block_{}", "params/head", "params/pooler"
LABELS = {"0": "LABEL_0", "1": "LABEL_1"}  # where config.json names none


@dataclass(frozen=True)
class Head:
    """A head: the fields of `BERT` that it needs, and the rules of its weights."""

    fields: Mapping[str, Any]
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Family:
    """BERT, or a relative that differs from it in names and in the forms of heads.

    The heads are by the names of classes. `pooler` has the rules of a pooler that belongs to the
    backbone; otherwise it is a part of the head of texts.
    """

    backbone: tuple[Rule, ...]
    heads: Mapping[str, Head]
    pooler: tuple[Rule, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def encoder(
    config: Config, family: Family, sizes: TransformerConfig, outputs: int | None, pool: Pool
) -> Architecture:
    """The encoder with the head in config.json, or with a new one of `outputs`.

    A new head reads the mean of the token vectors, with `pool="first"` the first one through the
    pooler, and with `pool=False` each. A file without a head gives vectors, pooled in the same way.
    """
    require(
        config,
        position_embedding_type="absolute",
        is_decoder=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    found = head(config, family.heads)
    new = outputs is not None or not found.rules
    if new:
        found = Head({"outputs": outputs, "pool": True if pool is None else pool})
    elif pool is not None:
        raise Error("pool is for a new head or for none: give outputs too, or leave pool out.")
    fields = {"outputs": len(config.get("id2label", LABELS)), **family.fields, **found.fields}
    types = value(config, "type_vocab_size")
    model = BERT(value(config, "vocab_size"), sizes, token_types=types, **fields)
    pooler = family.pooler if fields.get("pool") == "first" else ()
    all_heads = (*family.pooler, *(r for h in family.heads.values() for r in h.rules))
    left_out = tuple(replace(rule, ours=None) for rule in all_heads)
    fresh = "^params/head/" if family.pooler else "^params/(head|pooler)/"
    rules = (*family.backbone, *pooler, *found.rules, *left_out)
    return Architecture(model, rules, fresh if new else "")


def encoder_sizes(
    config: Config, max_length: int, dropout: float | None, remat: bool | str
) -> TransformerConfig:
    """The sizes of BERT, by the names of its config.json."""
    return TransformerConfig(
        width=value(config, "hidden_size"),
        depth=value(config, "num_hidden_layers"),
        heads=value(config, "num_attention_heads"),
        mlp_width=value(config, "intermediate_size"),
        max_length=max_length,
        rotary=False,
        pre_norm=False,
        activation=choose(config, "hidden_act", ACTIVATIONS),
        norm=partial(LayerNorm, epsilon=config.get("layer_norm_eps", 1e-12)),
        dropout=config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout,
        remat=remat,
    )


def encoder_heads(prefix: str, masked: Head, texts: Head) -> dict[str, Head]:
    """The heads of a family by the names of classes, which begin with the prefix."""
    return {
        f"{prefix}Model": Head({}),
        f"{prefix}ForMaskedLM": masked,
        f"{prefix}ForSequenceClassification": texts,
        f"{prefix}ForTokenClassification": Head({"pool": False}, dense("classifier", HEAD)),
        f"{prefix}ForQuestionAnswering": Head({"pool": False}, dense("qa_outputs", HEAD)),
    }


def masked_head(transform: str, layer_norm: str, bias: str, decoder: str) -> Head:
    """The head of the masked language model, whose `decoder` is the table of tokens once more."""
    rules = (
        *dense(transform, "params/transform"),
        *norm(layer_norm, "params/transform_norm"),
        Rule(bias, "params/bias"),
        Rule(f"{decoder}.weight", None),
        Rule(f"{decoder}.bias", None),
    )
    return Head({"outputs": 0, "mlm_bias": True}, rules)
