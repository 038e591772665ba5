"""SASRec: the causal transformer of sequential recommendation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.models.transformer import (
    TokenEmbedding,
    TransformerConfig,
    TransformerStack,
    as_time_mask,
)

SIZES = TransformerConfig(width=64, depth=2, heads=1, rotary=False, dropout=0.2)


class SASRec(nn.Module):
    """SASRec (Kang and McAuley, 2018): a user's items (B, T) to the scores of all items as next.

    A causal transformer, so that scores at t depend on the items up to t alone; the item embedding
    is also that of the outputs. `candidates` are items whose scores are wanted alone, at each
    step (B, T, K) or for all alike (K,): the scores are then (B, T, K), not (B, T, items).
    """

    items: int
    config: TransformerConfig = SIZES

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        candidates: jax.Array | None = None,
    ) -> jax.Array:
        """Items (B, T) and which of them are real, (B, T), to scores as in the class."""
        embedding = TokenEmbedding(self.items, self.config, name="items")
        stack = TransformerStack(self.config, causal=True, name="stack")
        states = stack(embedding(x, train), as_time_mask(mask), train=train)
        if candidates is None:
            return embedding.logits(states)
        scores = jnp.einsum("...d,...kd->...k", states, embedding.table[candidates])
        return scores.astype(jnp.float32)
