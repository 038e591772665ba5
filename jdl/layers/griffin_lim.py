"""Sound of a log-mel spectrogram, without a trained vocoder: the Griffin-Lim algorithm."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdl.errors import Error
from jdl.layers.log_mel import LogMel, cut_frames, hann, mel_filters

UPDATES = 40  # of the powers of frequencies, from those of mel filters
TINY = 1e-10  # added to what is divided by


def griffin_lim(
    log_mel: LogMel, frames: jax.Array, iterations: int = 60, momentum: float = 0.99
) -> jax.Array:
    """Griffin-Lim algorithm (1984): log-mel spectrograms (B, F, n_mels) to waveforms (B, F * hop).

    A vocoder that needs no training. The power of each frequency is estimated from those of the mel
    filters (`mel_to_power`). A spectrogram does not tell phases: they begin at random, the same
    ones for every row, and in each iteration become those of the waveform that the frames sum up
    to. `momentum` is that of the fast algorithm (Perraudin et al., 2013); 0 is the original one.
    `log_mel` is the layer that made the spectrograms; its `n_fft` is at least twice its `hop`.
    """
    if log_mel.hop * 2 > log_mel.n_fft:
        raise Error(
            f"Griffin-Lim needs frames that overlap by half at least: give LogMel a hop of up to "
            f"{log_mel.n_fft // 2}, not {log_mel.hop}."
        )
    magnitude = jnp.sqrt(mel_to_power(log_mel, frames.astype(jnp.float32)))
    turns = jax.random.uniform(jax.random.key(0), magnitude.shape[1:], maxval=2 * math.pi)
    estimate = lax.complex(magnitude * jnp.cos(turns)[None], magnitude * jnp.sin(turns)[None])

    def iterate(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, None]:
        estimate, before = carry
        nearest = _inverse_stft(log_mel, _with_magnitude(estimate, magnitude))
        spectrum = _stft(log_mel, nearest)
        return (spectrum + momentum * (spectrum - before), spectrum), None

    start = (estimate, jnp.zeros_like(estimate))
    (estimate, _), _ = lax.scan(iterate, start, None, iterations)
    return _inverse_stft(log_mel, _with_magnitude(estimate, magnitude)).astype(frames.dtype)


def mel_to_power(log_mel: LogMel, frames: jax.Array) -> jax.Array:
    """The power (B, F, n_fft // 2 + 1) of each frequency, from spectrograms (B, F, n_mels).

    By non-negative least squares, with multiplicative updates (Lee and Seung, 2001).
    """
    filters = mel_filters(log_mel.rate, log_mel.n_fft, log_mel.n_mels, log_mel.fmin, log_mel.fmax)
    mel = jnp.exp(frames * (math.log(10) / 10 if log_mel.decibels else 1.0))
    power = jnp.maximum(_matmul(mel, np.linalg.pinv(filters)), TINY)
    wanted = _matmul(mel, filters.T)

    def update(power: jax.Array, _: None) -> tuple[jax.Array, None]:
        found = _matmul(_matmul(power, filters), filters.T)
        return power * wanted / (found + TINY), None

    return lax.scan(update, power, None, UPDATES)[0]


def _matmul(a: jax.Array, b: np.ndarray) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _with_magnitude(spectrum: jax.Array, magnitude: jax.Array) -> jax.Array:
    """The spectrum of these magnitudes with the phases of another one."""
    scale = magnitude / (jnp.abs(spectrum) + TINY)
    return lax.complex(spectrum.real * scale, spectrum.imag * scale)


def _stft(log_mel: LogMel, x: jax.Array) -> jax.Array:
    """The short-time Fourier transform of waveforms (B, F * hop), which are zero beyond the ends.

    (B, F, n_fft // 2 + 1), by the frames of `LogMel`.
    """
    width, hop = log_mel.n_fft, log_mel.hop
    padded = jnp.pad(x, ((0, 0), (width // 2, width - width // 2 - hop)))
    return jnp.fft.rfft(cut_frames(padded, width, hop) * hann(width))


def _inverse_stft(log_mel: LogMel, spectrum: jax.Array) -> jax.Array:
    """The waveforms (B, F * hop) whose transform is nearest to a spectrum, in squared error."""
    width, samples = log_mel.n_fft, spectrum.shape[1] * log_mel.hop
    window = hann(width)
    frames = jnp.fft.irfft(spectrum, width) * window
    weights = jnp.broadcast_to(jnp.square(window), (1, *frames.shape[1:]))
    total, weight = (_overlap_add(part, log_mel.hop) for part in (frames, weights))
    return (total / (weight + TINY))[:, width // 2 :][:, :samples]


def _overlap_add(frames: jax.Array, hop: int) -> jax.Array:
    """The sum of frames (B, F, width) at every `hop`: the transpose of `cut_frames`."""
    rows, count, width = frames.shape
    pieces = -(-width // hop)
    parts = jnp.pad(frames, ((0, 0), (0, 0), (0, pieces * hop - width)))
    parts = parts.reshape(rows, count, pieces, hop)
    moved = [jnp.pad(parts[:, :, n], ((0, 0), (n, pieces - 1 - n), (0, 0))) for n in range(pieces)]
    return jnp.stack(moved).sum(0).reshape(rows, -1)
