"""Data augmentation: random transforms of one example, mapped over the batch on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jdl.types import Array, Error, Key

Example = dict[str, Array]
Transform = Callable[[Key, Example], Example]  # pure


def on_x(change: Callable[[Key, Array], Array]) -> Transform:
    """The transform that replaces the column x by `change(key, x)`."""

    def transform(key: Key, example: Example) -> Example:
        return {**example, "x": change(key, example["x"])}

    return transform


def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Transform:
    """Normalization of x: (x - mean) / std, with one number or one for each channel."""
    if not np.all(np.asarray(std) > 0):
        raise Error(f"normalize divides by std, which must be above 0, not {std}.")

    def change(key: Key, x: Array) -> Array:
        x = x.astype(jnp.float32)
        mean_x, std_x = (  # of the shape of x, because ranks are not promoted silently
            jnp.broadcast_to(jnp.asarray(values, x.dtype), x.shape) for values in (mean, std)
        )
        return (x - mean_x) / std_x

    return on_x(change)


def random_crop(padding: int, fill: float = 0.0) -> Transform:
    """Random crop of images x (H, W, C), padded first (as He et al., 2015, augment CIFAR-10).

    Each side is padded by `padding` pixels of `fill`, and a random window of the original size is
    cut out.
    """

    def change(key: Key, x: Array) -> Array:
        padded = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=fill)
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), x.shape)

    return on_x(change)


def random_flip(probability: float = 0.5) -> Transform:
    """Random horizontal flip: mirrors images x (H, W, C) left to right, with this probability."""
    return on_x(lambda key, x: jnp.where(jax.random.bernoulli(key, probability), x[:, ::-1], x))


def random_affine(rotation: float = 0.0, shift: float = 0.0, zoom: float = 0.0) -> Transform:
    """Random affine transformation of images x (H, W, C): rotation, translation and scaling.

    Rotates by up to `rotation` degrees, shifts by up to `shift` pixels, and scales by a factor from
    1 - `zoom` to 1 + `zoom`. Bilinear interpolation; 0 outside the image.
    """
    if min(rotation, shift, zoom) < 0 or zoom >= 1:
        raise Error(
            "random_affine takes rotation, shift and zoom of 0 or more, and zoom below 1; given: "
            f"{rotation=}, {shift=}, {zoom=}."
        )

    def change(key: Key, x: Array) -> Array:
        turn, zoomed, *moves = jax.random.uniform(key, (4,), x.dtype, -1, 1)
        angle, scale = turn * math.radians(rotation), 1 + zoomed * zoom
        centre = jnp.asarray([(side - 1) / 2 for side in x.shape[:2]], x.dtype)[:, None, None]
        rows, columns = jnp.indices(x.shape[:2], x.dtype) - centre
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        source = jnp.stack([cosine * rows - sine * columns, sine * rows + cosine * columns]) / scale
        source = source + centre + shift * jnp.stack(moves)[:, None, None]
        return jax.vmap(
            partial(jax.scipy.ndimage.map_coordinates, coordinates=list(source), order=1), -1, -1
        )(x)

    return on_x(change)


def random_erase(side: int, probability: float = 0.5, fill: float = 0.0) -> Transform:
    """Random erasing (Zhong et al., 2017) of a square of fixed size.

    Fills a square of `side` x `side` pixels at a random place, wholly within images x (H, W, C),
    with this probability. Cutout (DeVries and Taylor, 2017) differs in that its square may cross
    the border of the image.
    """

    def change(key: Key, x: Array) -> Array:
        place, chance = jax.random.split(key)
        height, width, _ = x.shape
        if side > min(height, width):
            raise Error(
                f"random_erase of a square of {side} does not fit into images of {height} x "
                f"{width}: take a smaller one."
            )
        ends = jnp.asarray([height - side + 1, width - side + 1])
        top, left = jax.random.randint(place, (2,), 0, ends)
        rows, columns = jnp.arange(height), jnp.arange(width)
        in_rows = (rows >= top) & (rows < top + side)
        in_columns = (columns >= left) & (columns < left + side)
        square = in_rows[:, None, None] & in_columns[None, :, None]
        return jnp.where(jax.random.bernoulli(chance, probability) & square, fill, x)

    return on_x(change)
