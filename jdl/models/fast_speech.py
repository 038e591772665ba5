"""FastSpeech: text to spectrograms, all frames at once."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import Conv, Dense, Dropout
from jdl.models.transformer import MultiHeadAttention, TransformerConfig, as_time_mask


class FastSpeech(nn.Module):
    """FastSpeech (Ren et al., 2019): text to spectrograms, with the duration of each token.

    For `jdl.objectives.text_to_speech`. An encoder reads tokens (B, S), such as letters, by
    `config.depth` blocks of self-attention and convolution; a dense layer gives the logarithm of
    each token's duration, in frames, and another one its mean frame, by which durations are learned
    (Popov et al., 2021). Each frame gets the vector of its token (the length regulator), and a
    decoder of `decoder_depth` such blocks makes the spectrogram of them. Convolutions are `kernel`
    steps wide. Unlike the paper's, layer normalization comes before each sublayer (pre-norm), and
    positions are rotary. Steps where a mask is false are padding, and change nothing.
    """

    vocab_size: int
    n_mels: int
    config: TransformerConfig = TransformerConfig(width=96, depth=2, heads=2, mlp_width=192)
    decoder_depth: int = 3
    kernel: int = 5

    def setup(self) -> None:
        """The layers of encoder and decoder."""
        c = self.config
        if not (c.rotary and c.pre_norm) or c.remat or c.scan:
            raise Error(
                "FastSpeech has rotary=True, pre_norm=True, remat=False, scan=False: leave them."
            )
        self.embedding = nn.Embed(self.vocab_size, c.width)
        self.encoder = [ConvTransformerBlock(c, self.kernel) for _ in range(c.depth)]
        self.encoder_norm = c.norm()
        self.mean_frame = Dense(self.n_mels)
        self.log_duration = Dense(1)
        self.decoder = [ConvTransformerBlock(c, self.kernel) for _ in range(self.decoder_depth)]
        self.decoder_norm = c.norm()
        self.frame = Dense(self.n_mels)

    def __call__(
        self,
        tokens: jax.Array,
        places: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens (B, S), and the place in them of each frame (B, F), to frames (B, F, n_mels)."""
        encoded, _, _ = self.encode(tokens, train, mask)
        return self.decode(encoded, places, train)

    def encode(
        self, tokens: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Vectors (B, S, width), mean frames (B, S, n_mels) and log-durations (B, S) of tokens."""
        real = as_time_mask(mask)
        x = self.embedding(tokens)
        for block in self.encoder:
            x = block(x, real, train)
        x = self.encoder_norm(x)
        return x, self.mean_frame(x), self.log_duration(x)[..., 0]

    def decode(self, encoded: jax.Array, places: jax.Array, train: bool = False) -> jax.Array:
        """Vectors (B, S, width) of tokens to frames (B, F, n_mels); places are S in padding."""
        real = places < encoded.shape[1]
        x = jnp.take_along_axis(encoded, places.clip(max=encoded.shape[1] - 1)[..., None], 1)
        for block in self.decoder:
            x = block(x, real, train)
        return self.frame(self.decoder_norm(x))


class ConvTransformerBlock(nn.Module):
    """Feed-forward transformer block of FastSpeech: self-attention, and then a convolution.

    The convolution, over time and in place of a feed-forward layer's first dense layer, sees
    neighbours: a sound depends on these above all. Both are added to their input.
    """

    config: TransformerConfig
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        """x (B, T, width) to the same shape; the mask (B, T) says which steps are real."""
        c, drop = self.config, Dropout(self.config.dropout)
        c.require_alike("FastSpeech")
        attention = MultiHeadAttention(c, name="attention")
        x = x + drop(attention(c.norm(name="attention_norm")(x), mask=mask), train)
        hidden = c.norm(name="conv_norm")(x)
        if mask is not None:
            hidden = jnp.where(mask[..., None], hidden, 0)
        conv = Conv(c.mlp_width or 4 * c.width, (self.kernel, 1), name="conv")
        hidden = c.activation(conv(hidden[:, :, None])[:, :, 0])
        return x + drop(Dense(c.width, kernel_init=c.residual_init, name="out")(hidden), train)
