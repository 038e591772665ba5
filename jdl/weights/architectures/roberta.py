"""RoBERTa (Liu et al., 2019) and XLM-RoBERTa (Conneau et al., 2020), as Hugging Face has them."""

from __future__ import annotations

import numpy as np

from jdl.weights.architectures.architecture import (
    Architecture,
    Config,
    dense,
    require,
    value,
    with_and_without,
)
from jdl.weights.architectures.bert import bert_backbone
from jdl.weights.architectures.encoder import (
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
from jdl.weights.rules import Layout, Rule

# By model_type, what the names of classes begin with.
CLASSES = {"camembert": "Camembert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
# The positions of tokens begin at 2; the rows before are never used.
FROM_2 = Layout(lambda x: x[2:], lambda x: np.concatenate([np.zeros_like(x[:2]), x]))


def roberta(
    config: Config,
    outputs: int | None = None,
    pool: Pool = None,
    dropout: float | None = None,
    remat: bool | str = False,
) -> Architecture:
    """RoBERTa: BERT with another head of texts, of which the pooler is a part; see `encoder`.

    XLM-RoBERTa and CamemBERT are RoBERTas of other texts and vocabularies.
    """
    require(config, pad_token_id=1)
    sizes = encoder_sizes(config, value(config, "max_position_embeddings") - 2, dropout, remat)
    return encoder(config, _family(CLASSES[config["model_type"]]), sizes, outputs, pool)


def _family(classes: str) -> Family:
    masked = masked_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder")
    texts = (*dense("classifier.dense", POOLER), *dense("classifier.out_proj", HEAD))
    unused = Rule("roberta.pooler.dense.weight", None), Rule("roberta.pooler.dense.bias", None)
    backbone = (*bert_backbone("roberta.", FROM_2), *with_and_without("roberta.", unused))
    return Family(backbone, encoder_heads(classes, masked, Head({"pool": "first"}, texts)))
