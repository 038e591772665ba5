"""Data augmentation for pose estimation: keypoints move with the pixels of their object."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Example, Transform
from jdl.data.move_boxes import affine_map
from jdl.data.move_labels import refuse_colors, with_origin
from jdl.types import Error, Key


def move_keypoints(
    transform: Transform, pairs: Sequence[tuple[int, int]], size: str | None = None
) -> Transform:
    """A transform of images x (H, W, C) that moves their `keypoints` (K, 3) as well.

    For transforms that move pixels along straight lines, with the random numbers that they draw for
    x: `move_keypoints(random_flip(), pairs=[(0, 1)])`, a random crop, `random_affine`. `pairs` are
    the keypoints that change places in a mirror image, as a left and a right elbow do (COCO's flip
    pairs); [] where none do. A keypoint that is moved out of the image is not known: three zeros.
    The column named by `size` grows with the object, by the square root of the change in area. What
    else changes an image is given to `shuffled` as it is, as by `move_boxes`. Raises `Error` for a
    transform that changes most pixels of an image of ones, and for invalid pairs.
    """
    refuse_colors(transform)
    members = [k for pair in pairs for k in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(members)) < len(members):
        raise Error(f"A pair is two keypoints, and each is in one pair at most: not {list(pairs)}.")

    def change(key: Key, example: Example) -> Example:
        moved, place, inside = with_origin(transform, key, example)
        points = example["keypoints"].astype(place.dtype)
        mirrored = np.arange(len(points))
        if members and not 0 <= min(members) <= max(members) < len(points):
            raise Error(f"There are {len(points)} keypoints, and the pairs are {list(pairs)}.")
        for one, other in pairs:
            mirrored[[one, other]] = other, one
        linear, (before, after), known = affine_map(place, inside)
        determinant = linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0]
        points = jnp.where(determinant < 0, points[mirrored], points)
        xy = points[:, :2] - before[None]
        xy = jnp.einsum("kj,ji->ki", xy, linear, precision="highest") + after[None]
        height, width = inside.shape
        seen = ((xy >= 0) & (xy <= jnp.asarray([width, height], xy.dtype)[None])).all(-1)
        stays = known & seen & (points[:, 2] > 0)
        changed = {"keypoints": jnp.where(stays[:, None], points.at[:, :2].set(xy), 0)}
        if size is not None:
            changed[size] = example[size] * jnp.sqrt(abs(determinant))
        return {**moved, **changed}

    return change
