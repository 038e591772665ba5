"""Log-mel spectrograms of waveforms, as a layer of the model."""

from __future__ import annotations

import math
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import Error
from jdl.layers.platform import only_plain


class LogMel(nn.Module):
    """Log-mel spectrogram: waveforms (B, T) to (B, frames, n_mels). It has no parameters.

    Frames of `n_fft` samples, one every `hop`, in a Hann window; the power of their Fourier
    transform, summed by `n_mels` triangular filters from `fmin` to `fmax` Hz (by default half the
    rate) on the mel scale of Slaney's Auditory Toolbox (1998); and the natural logarithm, of
    `floor` where the power is less. With `decibels`, 10 times the logarithm to base 10. Frame i is
    centred on sample i * hop. Beyond its ends a waveform is zero, or reflected with `reflect`.

    It equals `librosa.feature.melspectrogram` with these arguments, and the logarithm, to 1e-4;
    `decibels` equals `librosa.power_to_db(..., top_db=None)`. As part of the model it is saved and
    exported with it, so that whatever the model is given later are waveforms.
    """

    rate: int  # samples a second
    n_fft: int = 400
    hop: int = 160
    n_mels: int = 64
    fmin: float = 0.0
    fmax: float | None = None
    floor: float = 1e-10
    decibels: bool = False
    reflect: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Waveforms x (B, T) to spectrograms (B, 1 + T // hop, n_mels)."""
        half, samples = self.n_fft // 2, x.shape[-1]
        if x.ndim != 2 or samples <= half * self.reflect:
            raise Error(
                f"LogMel needs waveforms (B, T) of more than {half * self.reflect} samples, not an "
                f"array of shape {x.shape}."
            )
        mode = "reflect" if self.reflect else "constant"
        padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (half, half)), mode=mode)
        frames = cut_frames(padded, self.n_fft, self.hop)
        power = power_spectrum(frames * hann(self.n_fft))
        filters = mel_filters(self.rate, self.n_fft, self.n_mels, self.fmin, self.fmax)
        mel = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
        log_mel = jnp.log(jnp.maximum(mel, self.floor))
        return (log_mel * (10 / math.log(10) if self.decibels else 1.0)).astype(x.dtype)

    def mean_normalized(
        self, x: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Frames (B, T // hop, n_mels) of mean 0 over time in each filter, and which are real.

        That is cepstral mean normalization: above the floor, neither loudness nor a microphone's
        coloring matters. The mask of real frames is (B, T // hop, 1). Of x (B, T) with a mask (B,)
        or (B, T) of its real samples, those frames are real that are centred on a real sample; the
        others do not count.
        """
        real = jnp.ones(x.shape, bool)
        if mask is not None:
            real &= mask.astype(bool).reshape(x.shape[0], -1)
        frames = self(jnp.where(real, x, 0))[:, : x.shape[1] // self.hop]
        real_frames = real[:, :: self.hop, None][:, : frames.shape[1]]
        count = jnp.maximum(real_frames.sum(1, keepdims=True), 1).astype(frames.dtype)
        return frames - jnp.where(real_frames, frames, 0).sum(1, keepdims=True) / count, real_frames

    def frames_of(self, length: jax.Array) -> jax.Array:
        """The number of frames that are centred on the first `length` samples, (B,) to (B,)."""
        return -(-length // self.hop)


def cut_frames(x: jax.Array, width: int, hop: int) -> jax.Array:
    """The frames of `width` samples of x (B, T), one every `hop`: (B, frames, width).

    They are put together of pieces of `hop` samples, which needs no gather: neither do gradients.
    """
    count, pieces = 1 + (x.shape[1] - width) // hop, -(-width // hop)
    length = (count + pieces - 1) * hop
    x = jnp.pad(x, ((0, 0), (0, max(0, length - x.shape[1]))))[:, :length]
    x = x.reshape(-1, count + pieces - 1, hop)
    return jnp.concatenate([x[:, n : n + count] for n in range(pieces)], -1)[..., :width]


def hann(width: int) -> np.ndarray:
    """A periodic Hann window, (1, 1, width)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi / width * np.arange(width))
    return window.astype(np.float32)[None, None]


def power_spectrum(frames: jax.Array) -> jax.Array:
    """The squared absolute values (..., 1 + n // 2) of the Fourier transforms of frames (..., n).

    Within `plain_implementations()` by two products of matrices: of transforms jax2onnx has none
    for batches of any size.
    """
    if not only_plain():
        spectrum = jnp.fft.rfft(frames)
        return jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    n = frames.shape[-1]
    angles = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(1 + n // 2)) % n)
    parts = (
        jnp.matmul(frames, jnp.asarray(part, frames.dtype), precision=jax.lax.Precision.HIGHEST)
        for part in (np.cos(angles), np.sin(angles))
    )
    return sum(map(jnp.square, parts), jnp.zeros((), frames.dtype))


@lru_cache
def mel_filters(
    rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None
) -> np.ndarray:
    """A mel filter bank: the weights (n_fft // 2 + 1, n_mels) of the frequencies in each filter.

    Triangles that overlap by half, of area 1 each, on the mel scale of Slaney's Auditory Toolbox
    (1998): it is linear up to 1,000 Hz, and logarithmic above. Equal to `librosa.filters.mel`.
    """
    fmax = rate / 2 if fmax is None else fmax
    if not 0 <= fmin < fmax <= rate / 2:
        raise Error(
            f"Mel filters lie between 0 and half the rate, {rate / 2:g} Hz, not from {fmin:g} to "
            f"{fmax:g} Hz."
        )
    edges = _hertz(np.linspace(_mel(fmin), _mel(fmax), n_mels + 2))
    slopes = edges[None] - np.fft.rfftfreq(n_fft, 1 / rate)[:, None]
    rising, falling = -slopes[:, :-2] / np.diff(edges)[:-1], slopes[:, 2:] / np.diff(edges)[1:]
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    if not filters.any(0).all():
        raise Error(
            f"{n_mels} mel filters are too many for n_fft={n_fft}: some are narrower than the "
            f"{rate / n_fft:g} Hz between two frequencies. Take fewer, or a larger n_fft."
        )
    return filters.astype(np.float32)


_LINEAR, _BREAK, _STEP = 200 / 3, 1_000.0, math.log(6.4) / 27  # of Slaney's mel scale


def _mel(hertz: float) -> float:
    if hertz < _BREAK:
        return hertz / _LINEAR
    return _BREAK / _LINEAR + math.log(hertz / _BREAK) / _STEP


def _hertz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK * np.exp(_STEP * (mel - _BREAK / _LINEAR))
    return np.where(mel < _BREAK / _LINEAR, mel * _LINEAR, above)
