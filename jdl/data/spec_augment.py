"""Data augmentation of spectrograms: SpecAugment."""

from __future__ import annotations

import jax.numpy as jnp

from jdl.data.augment import Example, Transform
from jdl.layers.spec_augment import spectrogram_mask
from jdl.types import Error, Key


def spec_augment(
    time_masks: int = 2,
    max_time: int = 40,
    freq_masks: int = 2,
    max_freq: int = 15,
    fill: float = 0.0,
) -> Transform:
    """SpecAugment (Park et al., 2019): masks of time and of frequency for spectrograms x.

    x (T, F) or (T, F, 1) gets `time_masks` masks of up to `max_time` steps, and `freq_masks` masks
    of up to `max_freq` channels, filled with `fill`: 0 is the mean of standardized x. Masks of time
    lie within the real steps where the data have the column `length`. There is no time warping. In
    a model that computes the spectrogram itself, it is the layer `jdl.layers.SpecAugment`.
    """
    given = {
        "time_masks": time_masks,
        "max_time": max_time,
        "freq_masks": freq_masks,
        "max_freq": max_freq,
    }
    if min(given.values()) < 0:
        raise Error(f"spec_augment takes counts and widths of 0 or more; given: {given}.")

    def transform(key: Key, example: Example) -> Example:
        x = example["x"]
        if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] != 1):
            raise Error(
                "spec_augment takes spectrograms x (T, F) or (T, F, 1), but x of an example is of "
                f"shape {x.shape}."
            )
        steps, channels = x.shape[:2]
        length = example.get("length", jnp.asarray(steps, jnp.int32))
        masks = (time_masks, max_time, freq_masks, max_freq)
        masked = spectrogram_mask(key, length, (steps, channels), masks)
        return {**example, "x": jnp.where(masked.reshape(x.shape), fill, x)}

    return transform
