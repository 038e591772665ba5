"""The embedding bag: a text as the weighted mean of its tokens' embeddings, in any order."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dropout


class EmbeddingBag(nn.Module):
    """Bag of words: tokens (B, T) to the weighted mean of their embeddings (B, outputs).

    That is fastText's model of a text (Joulin et al., 2017) with one weight a token, which is
    trained, as rare words tell more (Arora et al., 2017, set it by frequency). `dropout` leaves out
    whole tokens in training (word dropout; Iyyer et al., 2015). Where the mask (B, T) is false,
    tokens do not count. It trains in seconds, and is hard to beat where the data are few.
    """

    vocab_size: int
    outputs: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T), to (B, outputs)."""
        table = self.param("table", nn.initializers.normal(0.02), (self.vocab_size, self.outputs))
        log_weights = self.param("log_weights", nn.initializers.zeros, (self.vocab_size,))
        weights = jnp.exp(log_weights)[x]
        if mask is not None and mask.ndim == 2:
            weights = jnp.where(mask, weights, 0)
        weights = Dropout(self.dropout)(weights, train)
        total = weights.sum(-1, keepdims=True)
        return jnp.einsum("bt,btd->bd", weights, table[x]) / jnp.maximum(total, 1e-6)
