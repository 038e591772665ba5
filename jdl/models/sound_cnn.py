"""Audio classification: a convolutional neural network on log-mel spectrograms."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import LogMel, SpecAugment
from jdl.models.cnn import CNN


class SoundCNN(nn.Module):
    """CNN on log-mel spectrograms, for keyword spotting (Sainath and Parada, 2015).

    For audio classification in general: waveforms x (B, T), of `rate` samples a second, give logits
    (B, outputs). The log-mel spectrogram has a frame of 32 ms (`n_fft` samples) every 10 ms (`hop`)
    by default; its mean over time is subtracted, filter by filter (cepstral mean normalization), so
    that loudness and a microphone's coloring hardly matter. In training `augment` masks it, if
    given. Then comes a `CNN` with BatchNorm, whose `blocks` are (channels, convolutions), each
    pooled by 2. Samples where the mask (B, T) is false are padding, and their frames are 0, as the
    masks of SpecAugment are; BatchNorm counts them as it counts silence.
    """

    outputs: int
    rate: int
    n_mels: int = 40
    n_fft: int | None = None
    hop: int | None = None
    blocks: Sequence[tuple[int, int]] = ((16, 1), (32, 1), (64, 1), (64, 1))
    dense: Sequence[int] = (128,)
    dropout: float = 0.0  # after every dense layer
    augment: SpecAugment | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Waveforms x (B, T), and a mask (B,) or (B, T), to (B, outputs)."""
        hop = self.rate // 100 if self.hop is None else self.hop
        n_fft = self.rate * 32 // 1_000 if self.n_fft is None else self.n_fft
        if self.n_mels < 2 ** len(self.blocks):
            raise Error(
                f"SoundCNN has {len(self.blocks)} blocks, each of which halves the {self.n_mels} "
                "mel filters: take fewer blocks, or more filters (n_mels)."
            )
        if x.ndim != 2 or x.shape[1] < hop * 2 ** len(self.blocks):
            raise Error(
                f"SoundCNN reads waveforms (B, T) of at least {hop * 2 ** len(self.blocks)} "
                f"samples, which its {len(self.blocks)} blocks pool to one frame, not {x.shape}."
            )
        log_mel = LogMel(self.rate, n_fft, hop, self.n_mels, floor=1e-6)
        frames, real = log_mel.mean_normalized(x, mask)
        frames = jnp.where(real, frames, 0)
        if self.augment is not None:
            frames = self.augment(frames, train, real.sum((1, 2), dtype=jnp.int32))
        cnn = CNN(
            self.outputs,
            self.blocks,
            dense=self.dense,
            batch_norm=True,
            dense_dropout=self.dropout,
            name="cnn",
        )
        return cnn(frames[..., None], train, real[:, 0, 0])
