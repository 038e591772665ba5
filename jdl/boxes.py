"""Box arithmetic for object detection: areas, intersection over union (IoU), and what suppresses.

Boxes are (..., 4): the left, top, right and bottom edge, x0, y0, x1 and y1. All functions are pure
and element by element, for NumPy arrays, and for arrays of JAX, of which both must have one rank.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # of NumPy or of JAX


def area(boxes: Array) -> Array:
    """The area of each box (...); 0 where an edge is beyond its opposite."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    return sides[..., 0] * sides[..., 1]


def intersection(a: Array, b: Array) -> Array:
    """The area that two boxes share (...)."""
    xp = _namespace(a)
    low, high = xp.maximum(a[..., :2], b[..., :2]), xp.minimum(a[..., 2:], b[..., 2:])
    return area(xp.concatenate([low, high], -1))


def iou(a: Array, b: Array) -> Array:
    """Intersection over union (the Jaccard index) of two boxes (...); 0 where both are empty."""
    shared = intersection(a, b)
    return _ratio(shared, area(a) + area(b) - shared)


def iou_matrix(a: Array, b: Array) -> Array:
    """The IoU (..., N, M) of each of the boxes a (..., N, 4) with each of b (..., M, 4)."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def giou(a: Array, b: Array) -> Array:
    """Generalized IoU (Rezatofighi et al., 2019) of two boxes (...), from -1 to 1.

    The IoU less the share of the smallest box around both that neither covers: it has a gradient
    also where the two do not meet.
    """
    xp = _namespace(a)
    low, high = xp.minimum(a[..., :2], b[..., :2]), xp.maximum(a[..., 2:], b[..., 2:])
    shared, around = intersection(a, b), area(xp.concatenate([low, high], -1))
    union = area(a) + area(b) - shared
    return _ratio(shared, union) - _ratio(around - union, around)


def clip(boxes: Array, height: int, width: int) -> Array:
    """The part of each box that is within an image of this size."""
    xp = _namespace(boxes)
    edges = [boxes[..., n].clip(0, (width, height)[n % 2]) for n in range(4)]
    return xp.stack(edges, -1)


def non_maximum_suppression(
    boxes: jax.Array, scores: jax.Array, labels: jax.Array, threshold: float, limit: int
) -> jax.Array:
    """Non-maximum suppression (NMS) by class: the indices (limit,) of the boxes (N, 4) that stay.

    A box is suppressed by one of its label that stays, has a higher score (of equal ones, is the
    first), and an IoU with it above the `threshold`. Indices are in the order of the scores (N,),
    then -1. Scores of 0 or less never stay. All shapes are static, for `jit` and `vmap`.
    """
    order = jnp.argsort(-scores, stable=True)
    boxes, labels, candidate = boxes[order], labels[order], scores[order] > 0
    rank = jnp.arange(len(scores))
    suppresses = (
        (iou_matrix(boxes, boxes) > threshold)
        & (labels[:, None] == labels[None])
        & (rank[:, None] < rank[None])
    )

    def step(stays: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # The fixed point is the answer of one pass over the boxes in their order, as each depends
        # on those before it alone; a few steps reach it (Cluster-NMS: Zheng et al., 2020).
        suppressed = (suppresses & (stays[1] > 0)[:, None]).any(0)
        return stays[1], (candidate & ~suppressed).astype(jnp.int32)

    # Whole numbers: a loop over a batch selects rows of its state, and ONNX Runtime no booleans.
    start = jnp.zeros(candidate.shape, jnp.int32), candidate.astype(jnp.int32)
    _, stays = jax.lax.while_loop(lambda s: (s[0] != s[1]).any(), step, start)
    first = jnp.argsort(-stays, stable=True)[:limit]
    kept = jnp.where(stays[first] > 0, order[first], -1)
    return jnp.pad(kept, (0, limit - len(kept)), constant_values=-1)


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where the whole is 0, also in the gradient."""
    xp = _namespace(whole)
    return part / xp.where(whole > 0, whole, 1)


def _namespace(array: Array) -> Any:
    return jnp if isinstance(array, jax.Array) else np
