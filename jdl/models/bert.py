"""BERT: the bidirectional (encoder-only) transformer, for masked tokens or whole texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense
from jdl.models.transformer import (
    TokenEmbedding,
    TransformerConfig,
    TransformerStack,
    as_time_mask,
)

Weights = Mapping[str, Any]


class BERT(nn.Module):
    """BERT (Devlin et al., 2019): a transformer encoder.

    It is for masked language modelling or classification: tokens (B, T) give logits (B, T,
    vocab_size) for each position, or with `outputs` the logits (B, outputs) of the text, from the
    mean of its token vectors (mean pooling), and without `pool` those of each token (B, T,
    outputs). `token_types=2` adds an embedding of each token's type, `token_type` (B, T), such as
    of the question (0) and of its context (1). The published form has `pre_norm=False` and
    `rotary=False`.
    Steps where the mask (B, T) is false are ignored.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()
    outputs: int = 0
    pool: bool = True
    token_types: int = 0

    def setup(self) -> None:
        """One head: of the masked language model, or of the classifier."""
        self.tokens = TokenEmbedding(self.vocab_size, self.config, self.token_types)
        self.stack = TransformerStack(self.config)
        if self.outputs:
            self.head = Dense(self.outputs)
        else:
            self.transform = Dense(self.config.width)
            self.transform_norm = self.config.norm()

    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        token_type: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T), to (B, T, vocab_size) or (B, outputs)."""
        vectors = self.encode(x, train, mask, token_type)
        if self.outputs:
            return self.head(mean_pooling(vectors, as_time_mask(mask)) if self.pool else vectors)
        vectors = self.config.activation(self.transform(vectors))
        return self.tokens.logits(self.transform_norm(vectors))

    def encode(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        token_type: jax.Array | None = None,
    ) -> jax.Array:
        """Contextual embeddings: tokens (B, T) to a vector for each, (B, T, width)."""
        vectors = self.tokens(x, train, token_type=token_type)
        return self.stack(vectors, as_time_mask(mask), train=train)


def mean_pooling(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean pooling over time: the mean of x (B, T, F) over the steps of `mask` (B, T), (B, F).

    Rows whose mask is false everywhere give zeros.
    """
    if mask is None:
        return x.mean(1)
    weights = mask.astype(x.dtype)[:, :, None]
    return (x * weights).sum(1) / jnp.maximum(weights.sum(1), 1)


def from_huggingface(weights: Weights, config: TransformerConfig) -> dict[str, Any]:
    """Pretrained weights: the parameters of `tokens` and `stack` from a BERT of Hugging Face.

    `weights` is what `safetensors.numpy.load_file(path)` gives. The config has the model's sizes,
    `pre_norm=False`, `rotary=False`, the exact GELU and norms of epsilon 1e-12. All tokens are of
    type 0, whose embedding is added to the positions. Biases of keys, which have no effect, are
    left out. Raises `KeyError` where a weight is missing.
    """
    positions = jnp.asarray(weights["embeddings.position_embeddings.weight"])[: config.max_length]
    first_type = jnp.asarray(weights["embeddings.token_type_embeddings.weight"])[:1]
    tokens = {
        "table": jnp.asarray(weights["embeddings.word_embeddings.weight"]),
        "positions": positions + first_type,
        "norm": _norm_params(weights, "embeddings.LayerNorm"),
    }
    layers = range(config.depth)
    stack = {f"block_{n}": _block_params(weights, f"encoder.layer.{n}") for n in layers}
    return {"tokens": tokens, "stack": stack}


def _block_params(weights: Weights, name: str) -> dict[str, Any]:
    attention = {
        "query": _dense_params(weights, f"{name}.attention.self.query"),
        "key": {"kernel": jnp.asarray(weights[f"{name}.attention.self.key.weight"]).T},
        "value": _dense_params(weights, f"{name}.attention.self.value"),
        "out": _dense_params(weights, f"{name}.attention.output.dense"),
    }
    feed_forward = {
        "in": _dense_params(weights, f"{name}.intermediate.dense"),
        "out": _dense_params(weights, f"{name}.output.dense"),
    }
    return {
        "attention": attention,
        "attention_norm": _norm_params(weights, f"{name}.attention.output.LayerNorm"),
        "feed_forward": feed_forward,
        "feed_forward_norm": _norm_params(weights, f"{name}.output.LayerNorm"),
    }


def _dense_params(weights: Weights, name: str) -> dict[str, jax.Array]:
    """Kernel and bias of a dense layer; PyTorch's matrices are (outputs, inputs)."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return {"kernel": jnp.asarray(kernel).T, "bias": jnp.asarray(bias)}


def _norm_params(weights: Weights, name: str) -> dict[str, jax.Array]:
    scale, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
