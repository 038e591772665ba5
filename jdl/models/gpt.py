"""GPT: the causal (decoder-only) transformer language model."""

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


class GPT(nn.Module):
    """GPT (Radford et al., 2018): tokens (B, T) to the logits (B, T, vocab_size) of the next token.

    Logits at t depend on tokens up to t alone (causal attention). With `decode`, the tokens follow
    those in the KV cache, the collection "cache", and are added to it, each row at its own position
    and without the padding on its right, where the mask (B, T) is false. The embedding table gives
    the logits too (weight tying); with `tied=False` a dense layer "head" does.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()
    tied: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None, decode: bool = False
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T), to logits (B, T, vocab_size)."""
        tokens = TokenEmbedding(self.vocab_size, self.config, name="tokens")
        stack = TransformerStack(self.config, causal=True, name="stack")
        mask = as_time_mask(mask)
        x = stack(tokens(x, train, decode, mask=mask), mask, train=train, decode=decode)
        if self.tied:
            return tokens.logits(x)
        return Dense(self.vocab_size, use_bias=False, name="head")(x).astype(jnp.float32)

    @property
    def max_length(self) -> int:
        """The most tokens that the KV cache holds."""
        return self.config.max_length
