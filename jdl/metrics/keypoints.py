"""The percentage of correct keypoints (PCK) of pose estimation."""

from __future__ import annotations

import jax.numpy as jnp

from jdl.metrics.columns import Columns, column
from jdl.types import Array, Error, Mean


def pck(predictions: Columns, batch: Columns, alpha: float = 0.1, size: str | None = None) -> Mean:
    """Percentage of correct keypoints (PCK; Yang and Ramanan, 2013), from 0 to 1.

    Of predicted `keypoints` (B, K, 2) and the column `keypoints` (B, K, 3) of the batch, x, y and
    the visibility: one is right if its distance from the true one is at most `alpha` times the size
    of the object. That is the column `size` (B,), in pixels; without one, the longer side of the
    axis-aligned bounding box of the row's known keypoints. Keypoints of visibility 0 are not known
    and count nowhere, nor does a row's only known one, which has no such box.
    """
    if not alpha > 0:
        raise Error(f"alpha, a share of the object's size, must be above 0, not {alpha}.")
    found = jnp.asarray(column(predictions, "keypoints", "predictions"))
    true = jnp.asarray(column(batch, "keypoints", "batch"))
    if true.ndim != 3 or true.shape[-1] != 3 or found.shape != (*true.shape[:2], 2):
        raise Error(
            "pck compares predicted keypoints (B, K, 2) with true ones (B, K, 3), but they are of "
            f"shape {found.shape} and {true.shape}."
        )
    known = known_keypoints(batch)
    sizes = jnp.asarray(column(batch, size, "batch") if size else _sizes(true[..., :2], known))
    distance = jnp.sqrt(jnp.square(found - true[..., :2]).sum(-1))
    return Mean.of(distance <= alpha * sizes[:, None], known & (sizes > 0)[:, None])


def known_keypoints(batch: Columns) -> Array:
    """The mask (B, K) of keypoints of a visibility above 0, in real rows."""
    known = jnp.asarray(batch["keypoints"])[..., 2] > 0
    return known & jnp.asarray(batch["mask"]).astype(bool)[:, None] if "mask" in batch else known


def _sizes(points: Array, known: Array) -> Array:
    """The longer side (B,) of the bounding box of the known points (B, K, 2)."""
    known = known[..., None]
    high = jnp.where(known, points, -jnp.inf).max(1)
    low = jnp.where(known, points, jnp.inf).min(1)
    return (high - low).max(-1)
