"""Resampling of images by bilinear interpolation: at any places, or of a window to a size."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jdl.types import Array


def sample_bilinear(x: Array, places: Array) -> Array:
    """The image x (H, W, C) at `places` (2, H', W'), rows and columns; 0 outside the image."""
    return jax.vmap(
        partial(jax.scipy.ndimage.map_coordinates, coordinates=list(places), order=1), -1, -1
    )(x)


def resize_window(x: Array, start: Array, window: Array, size: tuple[int, int]) -> Array:
    """A window of an image x (H, W, C), resized to `size`: bilinear, with antialiasing.

    `start` and `window` (2,) are its first row and column, and its height and width: whole numbers,
    as floats. Equal to a resize of the window alone, as Pillow and torchvision do it.
    """
    rows, columns = (
        _resize_weights(start[n], window[n], x.shape[n], size[n]).astype(x.dtype) for n in (0, 1)
    )
    # The highest precision, because a GPU would round the pixels to 10 bits.
    return jnp.einsum("iH,HWC,jW->ijC", rows, x, columns, precision="highest")


def _resize_weights(start: Array, length: Array, side: int, size: int) -> Array:
    """The weights (size, side) with which the pixels of a side enter those of the resized one."""
    step = length / size  # pixels of the window that one new pixel covers
    centres = start + (jnp.arange(size, dtype=start.dtype) + 0.5) * step
    pixels = jnp.arange(side, dtype=start.dtype) + 0.5
    distance = jnp.abs(centres[:, None] - pixels[None]) / jnp.maximum(step, 1)
    inside = (pixels > start) & (pixels < start + length)
    weights = jnp.where(inside[None], jnp.maximum(1 - distance, 0), 0)
    return weights / weights.sum(1, keepdims=True)
