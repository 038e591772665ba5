"""Data augmentation for object detection: boxes move with the pixels of their objects."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jdl.boxes import area, clip
from jdl.data.augment import Example, Transform
from jdl.data.move_labels import refuse_colors, with_origin
from jdl.types import Array, Error, Key

CORNERS = np.array([[0, 1], [2, 1], [0, 3], [2, 3]])  # of a box (x0, y0, x1, y1), each as (x, y)


def move_boxes(transform: Transform, visible: float = 0.25) -> Transform:
    """A transform of images x (H, W, C) that moves their `boxes` (T, 4) as well.

    For transforms that move pixels along straight lines, with the random numbers that they draw
    for x: `move_boxes(random_flip())`, a random crop, `random_affine`. A box that is turned or
    sheared becomes the smallest one around its four corners. A box of which less than this share of
    the area is left in the image loses its label: y (T,) is -1. What else changes an image is given
    to `shuffled` as it is: `shuffled(64, seed, move_boxes(random_flip()), color_jitter(0.2))`; see
    also `move_labels`. Raises `Error` for a transform that changes most pixels of an image of ones.
    """
    refuse_colors(transform)
    if not 0 < visible <= 1:
        raise Error(f"visible is a share of a box's area, above 0 and at most 1, not {visible}.")

    def change(key: Key, example: Example) -> Example:
        moved, place, inside = with_origin(transform, key, example)
        linear, (before, after), known = affine_map(place, inside)
        corners = example["boxes"][:, CORNERS] - before[None, None]  # (T, 4, 2)
        corners = jnp.einsum("tcj,jk->tck", corners, linear, precision="highest")
        whole = jnp.concatenate([corners.min(1), corners.max(1)], -1) + jnp.tile(after, 2)[None]
        boxes = clip(whole, *inside.shape)
        stays = known & (area(boxes) >= visible * area(whole)) & (example["y"] >= 0)
        return {
            **moved,
            "boxes": jnp.where(stays[:, None], boxes, 0),
            "y": jnp.where(stays, example["y"], -1),
        }

    return change


def affine_map(place: Array, inside: Array) -> tuple[Array, list[Array], Array]:
    """The affine map of points (x, y) before to those after: (point - before) @ linear + after.

    It is fitted by least squares to where the pixels inside came from, and not known if they are
    on one line.
    """
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, inside.shape), indexing="ij"), -1)
    weight = inside[..., None].astype(place.dtype)
    points = [p[..., ::-1].astype(place.dtype) + 0.5 for p in (place, grid)]  # x before y
    means = [(p * weight).sum((0, 1)) / weight.sum().clip(1) for p in points]
    old, new = ((p - mean[None, None]) * weight for p, mean in zip(points, means, strict=True))
    squares = jnp.einsum("hwi,hwj->ij", old, old, precision="highest")
    products = jnp.einsum("hwi,hwj->ij", old, new, precision="highest")
    determinant = squares[0, 0] * squares[1, 1] - squares[0, 1] * squares[1, 0]
    known = determinant > 0
    adjugate = jnp.array([[squares[1, 1], -squares[0, 1]], [-squares[1, 0], squares[0, 0]]])
    inverse = adjugate / jnp.where(known, determinant, 1)
    return jnp.einsum("ij,jk->ik", inverse, products, precision="highest"), means, known
