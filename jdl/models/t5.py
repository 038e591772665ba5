"""The transformer of two parts: an encoder that reads one sequence, and a decoder that writes another."""

from __future__ import annotations

import flax.linen as nn
import jax

from jdl.models.transformer import Blocks, Stack, Tokens, steps_mask


class T5(nn.Module):
    """Tokens x (B, S) and the tokens y (B, T) written so far to the logits (B, T, vocabulary) of those that follow.

    One table of embeddings serves both sides and the logits (Raffel et al., 2020). Logits at t depend on x and on
    y up to t alone.
    """

    vocabulary: int
    blocks: Blocks = Blocks()

    def setup(self) -> None:
        """Encoder and decoder are of the same size."""
        self.tokens = Tokens(self.vocabulary, self.blocks)
        self.encoder = Stack(self.blocks)
        self.decoder = Stack(self.blocks, causal=True, cross=True)

    def __call__(
        self, x: jax.Array, y: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Tokens (B, S), which are real where `mask` (B, S) holds, and tokens (B, T), to logits (B, T, vocabulary)."""
        return self.write(self.read(x, train, mask), y, mask, train)

    def read(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """The encoder: tokens (B, S) to vectors (B, S, width)."""
        return self.encoder(self.tokens(x, train), steps_mask(mask), train=train)

    def write(
        self,
        vectors: jax.Array | None,
        y: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder: the encoder's vectors and tokens (B, T) to logits (B, T, vocabulary).

        With `decode`, y goes on where the cache ends, and the vectors are needed the first time only.
        """
        inner = self.tokens(y, train, decode)
        return self.tokens.logits(
            self.decoder(inner, None, vectors, steps_mask(mask), train, decode)
        )

    @property
    def max_length(self) -> int:
        """How many tokens the cache holds."""
        return self.blocks.length
