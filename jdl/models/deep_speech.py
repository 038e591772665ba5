"""Speech recognition: log-mel spectrograms, convolutions and a bidirectional GRU."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import GRU, Cell, LogMel
from jdl.models.crnn import CRNN, SHORTER


class DeepSpeech2(nn.Module):
    """Deep Speech 2 (Amodei et al., 2016): waveforms to letters, by CTC.

    For speech recognition with `jdl.objectives.ctc`. Waveforms x (B, T), of `rate` samples a second
    and padded on the right, give logits (B, T / (4 * hop), outputs): one output for 4 frames of a
    log-mel spectrogram. From the spectrogram its mean over the real frames is subtracted, filter by
    filter (cepstral mean normalization), so that neither loudness nor a microphone's coloring
    matters. Then comes a `CRNN`, with time as the width of an image: convolutions, which are
    max-pooled in place of the paper's strides, and bidirectional recurrent layers of the widths
    `hidden`. By default a frame is of 32 ms (`n_fft` samples), and there is one each 10 ms (`hop`).
    Samples where the mask (B, T) is false are padding, and change nothing.
    """

    outputs: int
    rate: int
    n_mels: int = 40
    n_fft: int | None = None
    hop: int | None = None
    channels: Sequence[int] = (16, 32, 32)
    hidden: Sequence[int] = (128,)
    cell: Cell = GRU
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Waveforms x (B, T), and a mask (B,) or (B, T), to (B, T / (4 * hop), outputs)."""
        hop = self.rate // 100 if self.hop is None else self.hop
        n_fft = self.rate * 32 // 1_000 if self.n_fft is None else self.n_fft
        if x.ndim != 2 or x.shape[1] % (SHORTER * hop):
            raise Error(
                f"DeepSpeech2 reads waveforms (B, T), T a multiple of {SHORTER} * hop, "
                f"{SHORTER * hop} samples, and not {x.shape}: pad them on the right."
            )
        log_mel = LogMel(self.rate, n_fft, hop, self.n_mels, floor=1e-6)
        frames, real_frames = log_mel.mean_normalized(x, mask)
        image = frames.swapaxes(1, 2)[..., None]
        crnn = CRNN(self.outputs, self.channels, self.hidden, self.dropout, self.cell, name="crnn")
        return crnn(image, train, real_frames[:, 0, 0], real_frames.sum((1, 2), dtype=jnp.int32))
