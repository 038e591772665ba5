"""Data augmentation for semantic segmentation: pixels that move take their labels along."""

from __future__ import annotations

import jax.numpy as jnp

from jdl.data.augment import BatchTransform, Example, Normalize, Transform, UnitRange
from jdl.types import Array, Error, Key

WHOLE = 0.999  # of a pixel that was not mixed with what lies outside, but for rounding


def move_labels(transform: Transform) -> Transform:
    """A transform of images x (H, W, C) that moves the labels y (H, W) of the pixels as well.

    For transforms that move pixels, with the random numbers that they draw for x:
    `move_labels(random_flip())`, a random crop, `random_affine`. A pixel gets the label of the one
    nearest to where it came from; -1, unknown, where it came from outside of the image, or was
    erased. Transforms of colors move nothing, and are given to `shuffled` as they are.
    """
    if isinstance(transform, BatchTransform | Normalize | UnitRange):
        raise Error(
            "move_labels is for transforms that move the pixels of an image, such as random_flip "
            "and random_affine: give any other to `shuffled` as it is."
        )

    def change(key: Key, example: Example) -> Example:
        x, y = example["x"], example["y"]
        height, width, channels = x.shape
        rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
        one = jnp.ones_like(rows)  # and -1, for no fill is both
        origin = jnp.stack([rows, columns, one, -one], -1).astype(x.dtype)
        moved = transform(key, {**example, "x": jnp.concatenate([x, origin], -1)})
        came_from = moved["x"][..., channels:]
        inside = (came_from[..., 2] > WHOLE) & (came_from[..., 3] < -WHOLE)
        labels = y[_nearest(came_from[..., 0], height), _nearest(came_from[..., 1], width)]
        return {**moved, "x": moved["x"][..., :channels], "y": jnp.where(inside, labels, -1)}

    return change


def _nearest(place: Array, side: int) -> Array:
    return jnp.round(place).astype(jnp.int32).clip(0, side - 1)
