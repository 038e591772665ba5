"""What encoder-decoders have in common: a transformer decoder that reads what an encoder gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jdl.models.transformer import TransformerConfig, TransformerStack, as_time_mask


class EncoderDecoder(nn.Module):
    """Encoder-decoder (Sutskever et al., 2014) with a transformer decoder (Vaswani et al., 2017).

    A subclass has the field `config`; its `setup` makes `tokens`, a `TokenEmbedding`, and
    `decoder`, by `decoder_of`; its `encode` gives the vectors (B, S, width) that the decoder
    attends to. `jdl.objectives.seq2seq` trains it.
    """

    def __call__(
        self, x: jax.Array, y: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, ...) with its mask, and tokens y (B, T), to logits (B, T, vocab_size).

        They are of the tokens that follow: those at t depend on x and on y up to t alone.
        """
        return self.decode(self.encode(x, train, mask), y, mask, train)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> Any:
        """The encoder: x (B, ...) to vectors (B, S, width)."""
        raise NotImplementedError

    def decode(
        self,
        encoded: Any,
        y: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder: what `encode` gives, and y (B, T), to logits (B, T, vocab_size).

        With `decode`, y follows the tokens in the KV cache, the collection "cache"; `encoded` is
        needed the first time only, and may then be None. `mask` is that of x.
        """
        return self.tokens.logits(self.attend(encoded, y, mask, train, decode))

    def attend(
        self,
        vectors: jax.Array | None,
        y: jax.Array,
        mask: jax.Array | None,
        train: bool,
        decode: bool,
    ) -> jax.Array:
        """The decoder's vectors (B, T, width) for y (B, T), which attend to the encoder's."""
        x = self.tokens(y, train, decode)
        return self.decoder(x, None, vectors, as_time_mask(mask), train, decode)

    @property
    def max_length(self) -> int:
        """The most tokens that the KV cache holds."""
        return self.config.max_length


def decoder_of(config: TransformerConfig, depth: int | None = None) -> TransformerStack:
    """A decoder of these sizes, or of another depth, which attends to an encoder's output."""
    config = config if depth is None else replace(config, depth=depth)
    return TransformerStack(config, causal=True, cross_attention=True)
