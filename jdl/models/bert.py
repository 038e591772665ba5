"""The transformer that looks both ways: tokens that were hidden, or the class of a whole text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense
from jdl.models.transformer import Blocks, Stack, Tokens, steps_mask


class BERT(nn.Module):
    """Tokens (B, T) to logits (B, T, vocabulary) for each of them, or with `outputs` to (B, outputs) for the text.

    A text's vector is the mean over its real steps. Devlin et al., 2019; their form has `pre_norm=False` and
    `rotary=False`. Steps outside the mask (B, T) change nothing.
    """

    vocabulary: int
    blocks: Blocks = Blocks()
    outputs: int = 0

    def setup(self) -> None:
        """The heads are made where they are used."""
        self.tokens = Tokens(self.vocabulary, self.blocks)
        self.stack = Stack(self.blocks)
        if self.outputs:
            self.head = Dense(self.outputs)
        else:
            self.transform = Dense(self.blocks.width)
            self.transform_norm = self.blocks.norm()

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T)."""
        vectors = self.encode(x, train, mask)
        if self.outputs:
            return self.head(mean_over_steps(vectors, steps_mask(mask)))
        return self.tokens.logits(
            self.transform_norm(self.blocks.activation(self.transform(vectors)))
        )

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Tokens (B, T) to a vector for each, (B, T, width)."""
        return self.stack(self.tokens(x, train), steps_mask(mask), train=train)


def from_huggingface(weights: Mapping[str, Any], blocks: Blocks) -> dict[str, Any]:
    """The parameters of `tokens` and `stack` from a BERT's published weights (`safetensors.numpy.load_file(path)`).

    For blocks of the same sizes with `pre_norm=False`, `rotary=False`, the exact GELU and norms of epsilon 1e-12. All
    tokens are of segment 0, whose embedding is added to the positions. Biases of keys, which have no effect, are left
    out. Raises `KeyError` where a weight is missing.
    """

    def norm(name: str) -> dict[str, jax.Array]:
        return {
            "scale": jnp.asarray(weights[f"{name}.weight"]),
            "bias": jnp.asarray(weights[f"{name}.bias"]),
        }

    def dense(name: str, bias: bool = True) -> dict[str, jax.Array]:
        kernel = {"kernel": jnp.asarray(weights[f"{name}.weight"]).T}
        return kernel | {"bias": jnp.asarray(weights[f"{name}.bias"])} if bias else kernel

    def block(name: str) -> dict[str, Any]:
        attention = {
            "query": dense(f"{name}.attention.self.query"),
            "key": dense(f"{name}.attention.self.key", bias=False),
            "value": dense(f"{name}.attention.self.value"),
            "out": dense(f"{name}.attention.output.dense"),
        }
        return {
            "attention": attention,
            "attention_norm": norm(f"{name}.attention.output.LayerNorm"),
            "feed_forward": {
                "in": dense(f"{name}.intermediate.dense"),
                "out": dense(f"{name}.output.dense"),
            },
            "feed_forward_norm": norm(f"{name}.output.LayerNorm"),
        }

    positions = jnp.asarray(weights["embeddings.position_embeddings.weight"])[: blocks.length]
    tokens = {
        "table": jnp.asarray(weights["embeddings.word_embeddings.weight"]),
        "positions": positions
        + jnp.asarray(weights["embeddings.token_type_embeddings.weight"])[:1],
        "norm": norm("embeddings.LayerNorm"),
    }
    return {
        "tokens": tokens,
        "stack": {f"block_{n}": block(f"encoder.layer.{n}") for n in range(blocks.depth)},
    }


def mean_over_steps(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The mean of x (B, T, F) over the steps where `mask` (B, T) holds: (B, F); zeros where none does."""
    if mask is None:
        return x.mean(1)
    weights = mask.astype(x.dtype)[:, :, None]
    return (x * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
