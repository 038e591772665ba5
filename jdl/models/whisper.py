"""Whisper: speech recognition by an encoder-decoder transformer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import Error
from jdl.layers import Conv, Dropout, LogMel
from jdl.models.encoder_decoder import EncoderDecoder, decoder_of
from jdl.models.transformer import TokenEmbedding, TransformerConfig, TransformerStack

RATE, N_FFT, HOP = 16_000, 400, 160
PLACE = 2 * HOP  # samples of a place of the encoder, 20 ms


class Whisper(EncoderDecoder):
    """Whisper (Radford et al., 2023): speech recognition, and translation, by a transformer.

    Waveforms x (B, T) of 16,000 samples a second and tokens y (B, L) give the logits (B, L,
    vocab_size) of the tokens that follow. The encoder hears `places` of 20 ms, by default 30 s:
    shorter sounds are filled up with silence, which Whisper attends to as well. The tokens begin
    with those of the language and of the task. `jdl.objectives.seq2seq(..., start=...)` trains it.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig(
        width=384,
        heads=6,
        max_length=448,
        rotary=False,
        activation=partial(nn.gelu, approximate=False),
    )
    n_mels: int = 80
    places: int = 1_500
    decoder_depth: int | None = None  # that of the encoder by default

    def setup(self) -> None:
        """Encoder and decoder are of the same size, but for their depth."""
        self.encoder = SoundEncoder(self.config, self.n_mels, self.places)
        self.tokens = TokenEmbedding(self.vocab_size, self.config)
        self.decoder = decoder_of(self.config, self.decoder_depth)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Waveforms (B, T) to (B, places, width); where a mask (B, T) is false there is silence."""
        if mask is not None and mask.ndim == 2:
            x = jnp.where(mask.astype(bool), x, 0)
        return self.encoder(x, train)

    def decode(
        self,
        encoded: Any,
        y: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder, as of every `EncoderDecoder`; it attends to silence too, whatever `mask`."""
        return super().decode(encoded, y, None, train, decode)


class SoundEncoder(nn.Module):
    """Encoder of Whisper: log-mel spectrogram, two convolutions, sinusoidal positions, and blocks.

    The positions are in the collection "constants": they are not trained.
    """

    config: TransformerConfig
    n_mels: int
    places: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Waveforms x (B, T) to (B, places, width)."""
        c = self.config
        x = log_mel_frames(x, self.n_mels, self.places * PLACE)[:, :, None]
        for n, stride in enumerate((1, 2)):
            conv = Conv(c.width, (3, 1), (stride, 1), ((1, 1), (0, 0)), name=f"conv_{n}")
            x = nn.gelu(conv(x), approximate=False)
        positions = self.variable("constants", "positions", sinusoids, self.places, c.width)
        x = x[:, :, 0] + positions.value[None].astype(x.dtype)
        return TransformerStack(c, name="stack")(Dropout(c.dropout)(x, train), train=train)


def log_mel_frames(x: jax.Array, n_mels: int, samples: int) -> jax.Array:
    """Whisper's log-mel spectrogram of waveforms x (B, T): (B, samples / 160, n_mels).

    The waveforms are filled up with silence to as many samples. Numbers lie within 2 of each
    other: what is 80 dB below the loudest is clamped. Raises `Error` for longer waveforms.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise Error(
            f"Whisper reads waveforms from -1 to 1 in floating-point numbers, not {x.dtype}."
        )
    if x.ndim != 2 or (isinstance(x.shape[1], int) and x.shape[1] > samples):
        raise Error(
            f"Whisper reads waveforms (B, T) of up to {samples:,} samples, {samples / RATE:g} s, "
            f"and not {x.shape}: cut them into pieces."
        )
    x = jnp.pad(x, ((0, 0), (0, samples - x.shape[1])))
    log_mel = LogMel(RATE, N_FFT, HOP, n_mels, decibels=True, reflect=True)
    decibels = jnp.asarray(log_mel.apply({}, x))[:, :-1]  # without the frame around the very end
    return (jnp.maximum(decibels, decibels.max((1, 2), keepdims=True) - 80) + 40) / 40


def sinusoids(length: int, width: int) -> jax.Array:
    """Sinusoidal positions (Vaswani et al., 2017), (length, width): all sines, then all cosines."""
    half = width // 2
    frequencies = np.exp(-math.log(10_000) / max(half - 1, 1) * np.arange(half))
    angles = np.arange(length)[:, None] * frequencies[None]
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], 1), jnp.float32)
