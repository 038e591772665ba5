"""Noise: added to waveforms at a signal-to-noise ratio; white noise, pink noise and babble."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Example, Transform
from jdl.data.scenes import raw_draws
from jdl.types import Array, Error, Key

OCTAVES = 10  # of pink noise
LOUDNESS = 1_000  # the root mean square of a voice of babble, of 16-bit samples


def mix_noise(
    noise: np.ndarray, snr: float | Sequence[float] = (0.0, 20.0), probability: float = 1.0
) -> Transform:
    """Additive noise at a signal-to-noise ratio (SNR) in decibels, for waveforms x (T,).

    `noise` (N, S) are recordings at the rate of x and of any loudness. A row gets a part of one of
    them, from a random place on and from its beginning again after its end, with this probability;
    the ratio is `snr`, or drawn uniformly from (lowest, highest). The power of x and of the noise
    is the mean square of their samples, of the first `length` ones where the data have this column,
    and without those that are exactly 0, which are padding. A silent x stays as it is, and so does
    x where the part of the noise is silent. The noise is part of the compiled step: some minutes of
    it are enough. Raises `Error` for noise that is not finite (N, S), and for ratios in a wrong
    order.
    """
    ratios = tuple(snr) if isinstance(snr, Sequence) else (snr, snr)
    noise = np.asarray(noise)
    if noise.ndim != 2 or not noise.size or not np.isfinite(noise).all():
        raise Error(
            f"noise must be finite recordings (N, S), but it is {noise.dtype} of shape "
            f"{noise.shape}" + (" with NaN or infinite samples." if noise.size else ".")
        )
    ordered = len(ratios) == 2 and -math.inf < ratios[0] <= ratios[1] < math.inf
    if not ordered or not 0 <= probability <= 1:
        raise Error(
            "mix_noise takes ratios in decibels, one or (lowest, highest), and a probability from "
            f"0 to 1; given: {snr=}, {probability=}."
        )

    def transform(key: Key, example: Example) -> Example:
        x = example["x"]
        if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise Error(
                "mix_noise takes waveforms x (T,) of floats, but x of an example is "
                f"{x.dtype} of shape {x.shape}."
            )
        which, place, ratio, chance = jax.random.split(key, 4)
        row = jnp.asarray(noise)[jax.random.randint(which, (), 0, len(noise))]
        start = jax.random.randint(place, (), 0, noise.shape[1])
        added = row[(start + jnp.arange(len(x))) % noise.shape[1]].astype(x.dtype)
        real = jnp.arange(len(x)) < example.get("length", len(x))
        added, signal = jnp.where(real, added, 0), jnp.where(real, x, 0)
        decibels = jax.random.uniform(ratio, (), x.dtype, *ratios)
        power = _power(added)
        share = _power(signal) / jnp.where(power > 0, power, 1)
        gain = jnp.sqrt(share * 10 ** (-decibels / 10))
        mixed = jax.random.bernoulli(chance, probability)
        return {**example, "x": jnp.where(mixed, x + gain * added, x)}

    return transform


def _power(x: Array) -> Array:
    """The mean square of the samples that are not 0; 0 if there are none."""
    return jnp.square(x).sum() / jnp.maximum((x != 0).sum(), 1).astype(x.dtype)


def white_noise(rows: int, samples: int, seed: int, name: str) -> np.ndarray:
    """White noise: independent uniform samples (rows, samples) of int16.

    Row i is a function of (seed, name, samples, i), the same in all versions of NumPy.
    """
    return _uniform(rows, samples, seed, f"white {name}").astype(np.int16)


def pink_noise(rows: int, samples: int, seed: int, name: str) -> np.ndarray:
    """Pink noise, of equal power in every octave (1/f noise), by Voss and McCartney's algorithm.

    (rows, samples) of int16: a sum of white noises that change every sample, every 2nd, every 4th
    and so on. Row i is a function of (seed, name, samples, i), the same in all versions of NumPy.
    """
    total = np.zeros((rows, samples), np.int64)
    for octave in range(OCTAVES):
        held = 2**octave
        steps = _uniform(rows, -(-samples // held) + 1, seed, f"pink {octave} {name}")
        total += np.repeat(steps, held, 1)[:, held // 2 : held // 2 + samples]
    return (total // OCTAVES).astype(np.int16)


def babble(voices: np.ndarray, length: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Babble: voices that speak at once, (rows, K, T) of int16 to their sums (rows, T).

    Each is brought to one loudness, by the mean square of its first `length` (rows, K) samples, and
    begins at sample `starts` (rows, K), around the end of the row.
    """
    squares = np.square(voices.astype(np.int64)).sum(-1) / np.maximum(length, 1)
    gains = LOUDNESS / np.sqrt(np.maximum(squares, 1))
    places = (np.arange(voices.shape[-1]) - starts[..., None]) % voices.shape[-1]
    turned = np.take_along_axis(voices, places, -1)
    total = np.rint(turned * gains[..., None]).astype(np.int64).sum(1)
    return total.clip(-(2**15), 2**15 - 1).astype(np.int16)


def _uniform(rows: int, samples: int, seed: int, name: str) -> np.ndarray:
    """Uniform integers (rows, samples) of 14 bits about 0."""
    return (raw_draws(rows, samples, seed, name) >> np.uint64(50)).astype(np.int64) - 2**13
