"""BERT: the bidirectional (encoder-only) transformer, for masked tokens or whole texts."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import Dense, Dropout
from jdl.models.transformer import (
    TokenEmbedding,
    TransformerConfig,
    TransformerStack,
    as_time_mask,
)


class BERT(nn.Module):
    """BERT (Devlin et al., 2019): a transformer encoder.

    It is for masked language modelling or classification: tokens (B, T) give logits (B, T,
    vocab_size) for each position, or with `outputs` the logits (B, outputs) of the text, from the
    mean of its token vectors (mean pooling), and without `pool` those of each token (B, T,
    outputs). With `pool="first"` they are from the first token, [CLS], through a dense layer with
    `pool_activation` (the pooler). With `outputs=None` there is no head, and it gives the pooled
    vectors (B, width), or those of the tokens. `mlm_bias` adds a bias to the logits of the masked
    language model. `token_types=2` adds an embedding of each token's type, `token_type` (B, T),
    such as of the question (0) and of its context (1). The published form has `pre_norm=False` and
    `rotary=False`.
    Steps where the mask (B, T) is false are ignored.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()
    outputs: int | None = 0
    pool: bool | str = True
    token_types: int = 0
    pool_activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    mlm_bias: bool = False

    def setup(self) -> None:
        """One head: of the masked language model, or of the classifier."""
        if isinstance(self.pool, str) and self.pool != "first":
            raise Error(f'pool must be True, False or "first", not {self.pool!r}.')
        self.tokens = TokenEmbedding(self.vocab_size, self.config, self.token_types)
        self.stack = TransformerStack(self.config)
        if self.outputs == 0:
            self.transform = Dense(self.config.width)
            self.transform_norm = self.config.norm()
            if self.mlm_bias:
                self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
            return
        if self.pool == "first":
            self.pooler = Dense(self.config.width)
            self.drop = Dropout(self.config.dropout)
        if self.outputs:
            self.head = Dense(self.outputs)

    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        token_type: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T), to (B, T, vocab_size) or (B, outputs)."""
        vectors = self.encode(x, train, mask, token_type)
        if self.outputs == 0:
            return self._token_logits(vectors)
        if self.pool == "first":
            vectors = self.drop(self.pool_activation(self.pooler(vectors[:, 0])), train)
        elif self.pool:
            vectors = mean_pooling(vectors, as_time_mask(mask))
        return self.head(vectors) if self.outputs else vectors

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

    def _token_logits(self, vectors: jax.Array) -> jax.Array:
        """The head of the masked language model: (B, T, width) to (B, T, vocab_size)."""
        vectors = self.config.activation(self.transform(vectors))
        logits = self.tokens.logits(self.transform_norm(vectors))
        if not self.mlm_bias:
            return logits
        return logits + self.bias.astype(logits.dtype)[None, None]


def mean_pooling(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean pooling over time: the mean of x (B, T, F) over the steps of `mask` (B, T), (B, F).

    Rows whose mask is false everywhere give zeros.
    """
    if mask is None:
        return x.mean(1)
    weights = mask.astype(x.dtype)[:, :, None]
    return (x * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
