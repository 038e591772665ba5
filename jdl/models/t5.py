"""T5: the encoder-decoder transformer, from one sequence to another (seq2seq)."""

from __future__ import annotations

import flax.linen as nn
import jax

from jdl.models.transformer import (
    TokenEmbedding,
    TransformerConfig,
    TransformerStack,
    as_time_mask,
)


class T5(nn.Module):
    """Encoder-decoder transformer (Vaswani et al., 2017) with T5's shared embeddings.

    Source tokens x (B, S) and target tokens y (B, T) give the logits (B, T, vocab_size) of the
    target tokens that follow. One table of embeddings serves encoder, decoder and logits (Raffel et
    al., 2020). Logits at t depend on x and on y up to t alone.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()

    def setup(self) -> None:
        """Encoder and decoder are of the same size."""
        self.tokens = TokenEmbedding(self.vocab_size, self.config)
        self.encoder = TransformerStack(self.config)
        self.decoder = TransformerStack(self.config, causal=True, cross_attention=True)

    def __call__(
        self, x: jax.Array, y: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Tokens x (B, S) with their mask (B, S), and y (B, T), to logits (B, T, vocab_size)."""
        return self.decode(self.encode(x, train, mask), y, mask, train)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """The encoder: source tokens (B, S) to vectors (B, S, width)."""
        return self.encoder(self.tokens(x, train), as_time_mask(mask), train=train)

    def decode(
        self,
        encoded: jax.Array | None,
        y: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder: `encoded` (B, S, width) and y (B, T) to logits (B, T, vocab_size).

        `encoded` is what the encoder gives. With `decode`, y follows the tokens in the KV cache,
        the collection "cache"; `encoded` is needed the first time only, when the cross-attention's
        keys and values are computed. `mask` (B, S) is that of the source.
        """
        x = self.tokens(y, train, decode)
        x = self.decoder(x, None, encoded, as_time_mask(mask), train, decode)
        return self.tokens.logits(x)

    @property
    def max_length(self) -> int:
        """The most tokens that the KV cache holds."""
        return self.config.max_length
