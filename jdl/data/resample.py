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


def affine_places(x: Array, angle: Array, scale: Array, slope: Array, moves: Array) -> Array:
    """Where an affine transformation of an image x (H, W, C) reads it: places (2, H, W).

    It turns the image about its middle by `angle` in radians, scales it, shears its rows sidewards
    by `slope` pixels a row, and shifts what it reads by `moves` (2,), rows and columns.
    """
    centre = jnp.asarray([(side - 1) / 2 for side in x.shape[:2]], x.dtype)[:, None, None]
    rows, columns = jnp.indices(x.shape[:2], x.dtype) - centre
    columns = columns + slope * rows
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    places = jnp.stack([cosine * rows - sine * columns, sine * rows + cosine * columns]) / scale
    return places + centre + moves[:, None, None]


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
