"""Rows of a batch that lie on several devices: sums and draws over all of them.

Where a step is mapped over the axis `ROWS`, each device sees its own rows alone; anywhere else a layer sees all rows,
however the compiler divides them, and these functions do nothing.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax import lax

BATCH_AXIS = "rows"
Tree = TypeVar("Tree")


def batch_axis_size() -> int:
    """Among how many devices the step is mapped; 1 where it is not."""
    try:
        return int(lax.axis_size(BATCH_AXIS))
    except NameError:  # JAX's word for an axis that is not there
        return 1


def psum_batch(tree: Tree) -> Tree:
    """The sums of these arrays over all devices."""
    return lax.psum(tree, BATCH_AXIS) if batch_axis_size() > 1 else tree


def all_gather_batch(array: jax.Array) -> jax.Array:
    """The rows (B, ...) of all devices, in order."""
    return lax.all_gather(array, BATCH_AXIS, tiled=True) if batch_axis_size() > 1 else array


def sample_rows(
    draw: Callable[[jax.Array, tuple[int, ...]], jax.Array], key: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """`draw(key, shape)`, (B, ...), of a device's rows: its part of what would be drawn for the whole batch."""
    devices, (rows, *rest) = batch_axis_size(), shape
    whole = draw(key, (devices * rows, *rest))
    return (
        whole
        if devices == 1
        else lax.dynamic_slice_in_dim(whole, lax.axis_index(BATCH_AXIS) * rows, rows)
    )
