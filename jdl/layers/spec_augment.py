"""SpecAugment: random masks of time and of frequency in spectrograms, as a layer of the model."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers.batch_axis import row_keys
from jdl.layers.dropout import ROW_DROPOUT


class SpecAugment(nn.Module):
    """SpecAugment (Park et al., 2019) of spectrograms (B, T, F), in training alone.

    For models that compute the spectrogram themselves; `jdl.data.spec_augment` is the same for data
    that are spectrograms. `time_masks` masks of up to `max_time` frames each, and `freq_masks` of
    up to `max_freq` channels, are filled with 0, the mean of what is normalized. The masks are
    drawn row by row, as those of `Dropout` are. There is no time warping.
    """

    time_masks: int = 2
    max_time: int = 40
    freq_masks: int = 2
    max_freq: int = 15

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, length: jax.Array | None = None) -> jax.Array:
        """x (B, T, F) to the same shape; masks of time lie before `length` (B,), by default T."""
        given = (self.time_masks, self.max_time, self.freq_masks, self.max_freq)
        if x.ndim != 3 or min(given) < 0:
            raise Error(
                "SpecAugment takes spectrograms (B, T, F), and counts and widths of 0 or more, not "
                f"an array of shape {x.shape} and {self}."
            )
        if not train:
            return x
        steps, channels = x.shape[1:]
        length = jnp.full(len(x), steps, jnp.int32) if length is None else length
        stream = ROW_DROPOUT if self.has_rng(ROW_DROPOUT) else "dropout"
        draw = partial(spectrogram_mask, shape=(steps, channels), masks=given)
        masked = jax.vmap(draw)(row_keys(self.make_rng(stream), len(x)), length)
        return jnp.where(masked, jnp.zeros_like(x), x)


def spectrogram_mask(
    key: jax.Array, length: jax.Array, shape: tuple[int, int], masks: tuple[int, int, int, int]
) -> jax.Array:
    """A random mask (T, F) by SpecAugment, true where a spectrogram is masked.

    `masks` are the number of masks of time, their greatest width, and both of frequency.
    """
    (steps, channels), (time_masks, max_time, freq_masks, max_freq) = shape, masks
    time, freq = jax.random.split(key)
    in_time = _draw_masks(time, time_masks, max_time, steps, jnp.minimum(length, steps))
    in_freq = _draw_masks(freq, freq_masks, max_freq, channels, jnp.asarray(channels))
    return in_time[:, None] | in_freq[None]


def _draw_masks(key: jax.Array, count: int, most: int, size: int, length: jax.Array) -> jax.Array:
    """The union (size,) of `count` masks of random widths up to `most`, before `length`."""
    wide, place = jax.random.split(key)
    width = jnp.minimum(jax.random.randint(wide, (count, 1), 0, most + 1), length)
    first = jax.random.randint(place, (count, 1), 0, length - width + 1)
    places = jnp.arange(size)[None]
    return ((places >= first) & (places < first + width)).any(0)
