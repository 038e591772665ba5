"""GPT: the causal (decoder-only) transformer language model."""

from math import inf

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import Dense, soft_cap
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
    the logits too (weight tying); with `tied=False` a dense layer "head" does. `logit_cap` keeps
    them within it (logit soft-capping, Gemma 2: 30). Where a row has several documents, with their
    numbers in `segment` (B, T), none sees another and the positions begin again (sequence packing
    with a mask; Krell et al., 2021).
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()
    tied: bool = True
    logit_cap: float | None = None

    def __post_init__(self) -> None:
        """Raises `Error` for a cap that is not above 0."""
        super().__post_init__()
        if self.logit_cap is not None and not 0 < self.logit_cap < inf:
            raise Error(f"logit_cap must be a number above 0, not {self.logit_cap!r}.")

    def setup(self) -> None:
        """The embedding, the blocks, and the head unless it is tied."""
        self.tokens = TokenEmbedding(self.vocab_size, self.config)
        self.stack = TransformerStack(self.config, causal=True)
        if not self.tied:
            self.head = Dense(self.vocab_size, use_bias=False)

    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        decode: bool = False,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T), to logits (B, T, vocab_size)."""
        return self.logits(self.hidden_states(x, train, mask, decode, segment))

    def hidden_states(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        decode: bool = False,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens (B, T) to the last hidden states (B, T, width), from which the logits are made."""
        mask = as_time_mask(mask)
        x = self.tokens(x, train, decode, mask=mask, segment=segment)
        return self.stack(x, mask, train=train, decode=decode, segment=segment)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The head: hidden states (..., width) to logits (..., vocab_size), in float32."""
        out = self.tokens.logits(hidden) if self.tied else self.head(hidden).astype(jnp.float32)
        return out if self.logit_cap is None else soft_cap(out, self.logit_cap)

    @property
    def max_length(self) -> int:
        """The most tokens that the KV cache holds."""
        return self.config.max_length
