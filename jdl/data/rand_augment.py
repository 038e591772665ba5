"""RandAugment: a few random operations, of color and of geometry, on every image."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.augment import UnitRange
from jdl.data.augment_color import adjust_brightness, adjust_contrast, adjust_saturation, blend
from jdl.data.resample import sample_bilinear
from jdl.types import Array, Error, Key

STRONGEST = 30  # the magnitude at which each operation has its full range
LEVELS = 255  # of an image of bytes, above 0
GEOMETRIC = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")
COLOR = (
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


def rand_augment(ops: int = 2, magnitude: float = 9) -> UnitRange:
    """RandAugment (Cubuk et al., 2020) of images x (H, W, C) from 0 to 1, of 1 or 3 channels.

    Applies `ops` operations, each drawn from 14: identity, autocontrast, equalize, rotate,
    solarize, color, posterize, contrast, brightness, sharpness, shear and translation along x and
    y. The `magnitude`, 0 to 30, sets the strength of all, with torchvision's ranges; directions are
    random. Bilinear interpolation; 0 outside the image.
    """
    if ops < 0 or not 0 <= magnitude <= STRONGEST:
        raise Error(
            f"rand_augment takes a number of operations, and a magnitude from 0 to {STRONGEST}; "
            f"given: {ops=}, {magnitude=}."
        )

    def change(key: Key, x: Array) -> Array:
        for n in range(ops):
            which, side = jax.random.split(jax.random.fold_in(key, n))
            index = jax.random.randint(which, (), 0, len(GEOMETRIC) + len(COLOR))
            positive = jax.random.bernoulli(side)
            x = apply_operation(x, index, positive, magnitude / STRONGEST)
        return x

    return UnitRange("rand_augment", change)


def apply_operation(x: Array, index: Array, positive: Array, strength: float) -> Array:
    """Operation `index` of the 14 on an image, at a strength from 0 to 1, in one direction.

    The index is that in (*GEOMETRIC, *COLOR). Mapped over a batch, all operations are computed, and
    one is chosen. So the geometric ones share one interpolation, with the map of the one drawn.
    """
    maps = jnp.asarray(_maps(x.shape[0], x.shape[1], strength), x.dtype)
    chosen = maps[positive.astype(jnp.int32), jnp.minimum(index, len(GEOMETRIC) - 1)]
    factor = jnp.where(positive, 1 + 0.9 * strength, 1 - 0.9 * strength).astype(x.dtype)
    bits = 8 - round(4 * strength)
    changes: list[Callable[[Array], Array]] = [
        partial(_warp, affine=chosen),
        partial(adjust_brightness, factor=factor),
        partial(adjust_saturation, factor=factor),
        partial(adjust_contrast, factor=factor),
        partial(sharpen, factor=factor),
        partial(posterize, bits=bits),
        partial(solarize, threshold=1 - strength),
        autocontrast,
        equalize,
    ]
    return jax.lax.switch(jnp.maximum(index - len(GEOMETRIC) + 1, 0), changes, x)


def _maps(height: int, width: int, strength: float) -> np.ndarray:
    """The affine maps (2, 6, 2, 3) from new to old places, by direction and `GEOMETRIC`.

    Places are relative to the middle of the image: (row, column, 1).
    """
    shear, angle = 0.3 * strength, math.radians(30 * strength)
    down, right = (int(150 / 331 * strength * side) for side in (height, width))

    def toward(sign: int) -> list[list[list[float]]]:
        sine, cosine = sign * math.sin(angle), math.cos(angle)
        return [
            [[1, 0, 0], [0, 1, 0]],
            [[1, 0, 0], [sign * shear, 1, 0]],
            [[1, sign * shear, 0], [0, 1, 0]],
            [[1, 0, 0], [0, 1, -sign * right]],
            [[1, 0, -sign * down], [0, 1, 0]],
            [[cosine, sine, 0], [-sine, cosine, 0]],
        ]

    return np.asarray([toward(-1), toward(1)])


def _warp(x: Array, affine: Array) -> Array:
    """The image, whose pixel at p is read at `affine` (2, 3) times p, relative to the middle."""
    centre = jnp.asarray([(side - 1) / 2 for side in x.shape[:2]], x.dtype)
    rows, columns = jnp.indices(x.shape[:2], x.dtype) - centre[:, None, None]
    centred = affine + jnp.pad(centre[:, None], ((0, 0), (2, 0)))
    places = [a * rows + b * columns + c for a, b, c in centred]
    return sample_bilinear(x, jnp.stack(places))


def posterize(x: Array, bits: int) -> Array:
    """The image with `bits` bits a channel left of the 8 of a byte."""
    step = 2 ** (8 - bits)
    return jnp.floor(_levels(x) / step) * (step / LEVELS)


def solarize(x: Array, threshold: float) -> Array:
    """The image with the pixels from the threshold up inverted."""
    return jnp.where(x >= threshold, 1 - x, x)


def autocontrast(x: Array) -> Array:
    """The image with each channel stretched to the range 0 to 1; one of a single value stays."""
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    spread = jnp.where(high > low, high - low, 1)
    return jnp.where(high > low, (x - low) / spread, x)


def equalize(x: Array) -> Array:
    """Histogram equalization of each channel, on the 256 levels of bytes, as Pillow does it."""
    return jax.vmap(_equalize_channel, -1, -1)(x)


def _equalize_channel(x: Array) -> Array:
    levels = _levels(x).astype(jnp.int32)
    counts = jnp.zeros(LEVELS + 1, jnp.int32).at[levels].add(1)
    step = (x.size - counts[levels.max()]) // LEVELS  # pixels a level, without the highest level's
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), LEVELS)
    return jnp.where(step > 0, table[levels].astype(x.dtype) / LEVELS, x)


def sharpen(x: Array, factor: Array) -> Array:
    """The image with its differences from a smoothed one times `factor`; 0 gives the smoothed one.

    Pixels at the border stay, as in Pillow.
    """
    height, width, _ = x.shape
    windows = [x[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
    inner = (reduce(jnp.add, windows) + 4 * x[1:-1, 1:-1]) / 13
    return blend(x, x.at[1:-1, 1:-1].set(inner), factor)


def _levels(x: Array) -> Array:
    """The levels of a byte, 0 to 255, as floats."""
    return jnp.round(jnp.clip(x, 0, 1) * LEVELS)
