"""T5: the encoder-decoder transformer, from one sequence to another (seq2seq)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense
from jdl.models.encoder_decoder import EncoderDecoder, decoder_of
from jdl.models.transformer import (
    TokenEmbedding,
    TransformerConfig,
    TransformerStack,
    as_time_mask,
)

Encoded = tuple[jax.Array, jax.Array]  # the encoder's vectors (B, S, width), and its tokens (B, S)


class T5(EncoderDecoder):
    """Encoder-decoder transformer (Vaswani et al., 2017) with T5's shared embeddings.

    Source tokens x (B, S) and target tokens y (B, T) give the logits (B, T, vocab_size) of the
    target tokens that follow. One table of embeddings serves encoder, decoder and logits (Raffel et
    al., 2020); with `tied=False` the logits are those of a dense layer "head". Logits at t depend
    on x and on y up to t alone. The published T5 has relative positions, among other things: see
    `jdl.weights.from_pretrained`.

    With `copying` it is a pointer-generator network, after See et al. (2017): each target token is
    drawn from the vocabulary or copied from the source, and the logits are the logarithms of the
    probabilities of both together. For summaries, which repeat rare words of what they sum up.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()
    copying: bool = False
    tied: bool = True
    logits_scale: float = 1.0  # of the decoder's output, before the logits
    decoder_depth: int | None = None  # that of the encoder by default

    def setup(self) -> None:
        """Encoder and decoder are of the same size, but for their depth."""
        self.tokens = TokenEmbedding(self.vocab_size, self.config)
        self.encoder = TransformerStack(self.config)
        self.decoder = decoder_of(self.config, self.decoder_depth)
        if not self.tied:
            self.head = Dense(self.vocab_size, use_bias=False)
        if self.copying:
            self.pointer = Pointer(self.config.width)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> Encoded:
        """The encoder: source tokens (B, S) to vectors (B, S, width), and the tokens themselves."""
        return self.encoder(self.tokens(x, train), as_time_mask(mask), train=train), x

    def decode(
        self,
        encoded: Encoded | None,
        y: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder: what `encode` gives, and y (B, T), to logits (B, T, vocab_size)."""
        vectors, source = (None, None) if encoded is None else encoded
        x = self.attend(vectors, y, mask, train, decode)
        logits = self._logits(x * self.logits_scale)
        if not self.copying:
            return logits
        return self.pointer(logits, x, vectors, source, as_time_mask(mask), decode)

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.tokens.logits(x) if self.tied else self.head(x).astype(jnp.float32)


class Pointer(nn.Module):
    """Copying of source tokens by attention, as in a pointer-generator network (See et al., 2017).

    Its attention is a dot product of its own, where theirs is additive and the decoder's as well.
    """

    width: int

    @nn.compact
    def __call__(
        self,
        logits: jax.Array,
        x: jax.Array,
        vectors: jax.Array | None,
        source: jax.Array | None,
        mask: jax.Array | None,
        decode: bool,
    ) -> jax.Array:
        """The logarithms (B, T, V) of p softmax(logits) + (1 - p) copied, in float32.

        The decoder's x (B, T, width) gives p, and attends to the encoder's `vectors` (B, S, width);
        `copied` are the attention weights, summed by the token of `source` (B, S). With `decode`,
        keys and source are kept in the collection "cache" and are needed the first time only.
        """
        keys = None if vectors is None else Dense(self.width, use_bias=False, name="key")(vectors)
        if decode:
            keys, source = self._cached("keys", keys), self._cached("source", source)
        assert source is not None
        scores = jnp.einsum("btd,bsd->bts", Dense(self.width, name="query")(x), keys)
        scores = scores.astype(jnp.float32) * self.width**-0.5
        if mask is not None:
            scores = jnp.where(mask[:, None].astype(bool), scores, jnp.finfo(jnp.float32).min)
        copied = _sum_by_token(jax.nn.softmax(scores), source, logits.shape[-1])
        p = jax.nn.sigmoid(Dense(1, name="generate")(x).astype(jnp.float32))
        mixed = p * jax.nn.softmax(logits) + (1 - p) * copied
        return jnp.log(jnp.maximum(mixed, jnp.finfo(jnp.float32).tiny))

    def _cached(self, name: str, given: jax.Array | None) -> jax.Array:
        if given is not None:
            self.put_variable("cache", name, given)
        return self.get_variable("cache", name)


def _sum_by_token(weights: jax.Array, tokens: jax.Array, vocab_size: int) -> jax.Array:
    """Weights (B, T, S) of the tokens (B, S), summed for each token: (B, T, vocab_size)."""

    def of_row(weights: jax.Array, tokens: jax.Array) -> jax.Array:
        zeros = jnp.zeros((weights.shape[0], vocab_size), weights.dtype)
        return zeros.at[:, tokens].add(weights)

    return jax.vmap(of_row)(weights, tokens)
