"""Data augmentation for semantic segmentation: pixels that move take their labels along."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdl.data.augment import Augmentation, BatchTransform, Example, Normalize, Transform, UnitRange
from jdl.types import Array, Error, Key

WHOLE = 0.999  # of a pixel that was not mixed with what lies outside, but for rounding
DRAWS = 8  # on which it is checked that the pixels move and do not change
REFUSAL = (
    "move_labels, move_boxes and move_keypoints are for transforms that move the pixels of an "
    "image, such as random_flip and random_affine, and change none: give any other to `shuffled` "
    "as it is."
)


def move_labels(transform: Transform) -> Transform:
    """A transform of images x (H, W, C) that moves the labels y (H, W) of the pixels as well.

    For transforms that move pixels, with the random numbers that they draw for x:
    `move_labels(random_flip())`, a random crop, `random_affine`. A pixel gets the label of the one
    nearest to where it came from; -1, unknown, where it came from outside of the image, or was
    erased. Transforms of colors and noise move nothing, and are given to `shuffled` as they are:
    `shuffled(64, seed, move_labels(random_flip()), gaussian_noise(0.1))`. Raises `Error` for one
    that changes most pixels of an image of ones.
    """
    refuse_colors(transform)

    def change(key: Key, example: Example) -> Example:
        y = example["y"]
        moved, place, inside = with_origin(transform, key, example)
        height, width = y.shape
        labels = y[_nearest(place[..., 0], height), _nearest(place[..., 1], width)]
        return {**moved, "y": jnp.where(inside, labels, -1)}

    return change


def with_origin(transform: Transform, key: Key, example: Example) -> tuple[Example, Array, Array]:
    """The transformed example, and of each of its pixels the row and the column it came from.

    Those are (H, W, 2), and (H, W) says which pixels came from inside of the image. The transform
    moves them as channels of the image. Raises `Error` for one that changes pixels.
    """
    _check_moves(transform, example)
    x = example["x"]
    height, width, channels = x.shape
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    one = jnp.ones_like(rows)  # and -1, for no fill is both
    origin = jnp.stack([rows, columns, one, -one], -1).astype(x.dtype)
    moved = transform(key, {**example, "x": jnp.concatenate([x, origin], -1)})
    came_from = moved["x"][..., channels:]
    inside = (came_from[..., 2] > WHOLE) & (came_from[..., 3] < -WHOLE)
    return {**moved, "x": moved["x"][..., :channels]}, came_from[..., :2], inside


def refuse_colors(transform: Augmentation) -> None:
    """Raises `Error` for a transform that moves no pixels, or is not of one image alone."""
    if isinstance(transform, BatchTransform | Normalize | UnitRange):
        raise Error(REFUSAL)


def _check_moves(transform: Transform, example: Example) -> None:
    """Raises `Error` if most pixels of ones become neither ones nor what is outside."""
    height, width, channels = example["x"].shape
    with jax.ensure_compile_time_eval():  # numbers, also where the transform is being compiled
        signs = jnp.asarray([1] * (channels + 1) + [-1], example["x"].dtype)
        probe = {name: jnp.zeros(value.shape, value.dtype) for name, value in example.items()}
        probe["x"] = jnp.broadcast_to(signs, (height, width, channels + 2))
        keys = jax.random.split(jax.random.key(0), DRAWS)
        moved = jax.vmap(lambda key: transform(key, probe)["x"])(keys)
        one, minus_one = moved[..., -2], moved[..., -1]
        whole = (abs(one - 1) < 1 - WHOLE) & (abs(minus_one + 1) < 1 - WHOLE)
        outside = abs(one - minus_one) < 1 - WHOLE
        changed = float((~whole & ~outside).mean((1, 2), dtype=jnp.float32).max())
    if changed > 0.5:
        raise Error(REFUSAL)


def _nearest(place: Array, side: int) -> Array:
    return jnp.round(place).astype(jnp.int32).clip(0, side - 1)
