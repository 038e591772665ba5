"""The batch axis of data parallel training: all-reduce, all-gather and random draws over devices.

Within `jax.pmap` or `shard_map` over `BATCH_AXIS` each device runs the step only on its own rows,
and whatever needs the whole batch uses a collective (`lax.psum`, `lax.all_gather`). Under `jax.jit`
a layer sees the whole batch, however XLA shards it, and these functions have no effect.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

BATCH_AXIS = "batch"
"""The name of the mapped axis that divides a batch among devices (`jax.pmap`)."""
BATCH_AXES = ("data", "fsdp", BATCH_AXIS)  # the axes of a mesh that divide the rows of a batch
Tree = TypeVar("Tree")


def batch_axis_size() -> int:
    """The number of devices that the step is mapped over; 1 outside of pmap and shard_map."""
    try:
        return int(lax.axis_size(BATCH_AXIS))
    except NameError:  # what JAX raises for an axis that is not bound
        return 1


def psum_batch(tree: Tree) -> Tree:
    """All-reduce: the sums of these arrays over all devices of the batch axis (`lax.psum`)."""
    return lax.psum(tree, BATCH_AXIS) if batch_axis_size() > 1 else tree


def all_gather_batch(array: jax.Array) -> jax.Array:
    """All-gather: the rows (B, ...) of all devices of the batch axis, in order."""
    return lax.all_gather(array, BATCH_AXIS, tiled=True) if batch_axis_size() > 1 else array


def device_key(key: jax.Array) -> jax.Array:
    """A key for each device of the batch axis; the same key outside of pmap and shard_map."""
    return jax.random.fold_in(key, lax.axis_index(BATCH_AXIS)) if batch_axis_size() > 1 else key


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """A random key for each of this device's rows, (B,): `fold_in(key, i)` for row i of the batch.

    So a row's random numbers do not depend on the device that holds it, and each device computes
    only those of its own rows.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row_numbers(rows))


def row_numbers(rows: int) -> jax.Array:
    """The numbers (B,) of this device's rows within the batch of all devices."""
    first = lax.axis_index(BATCH_AXIS) * rows if batch_axis_size() > 1 else 0
    return first + jnp.arange(rows)


def sample_rows(
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
) -> jax.Array:
    """Random numbers (B, ...), row by row: `sample(key, shape)` with the row's key (`row_keys`)."""
    rows, *rest = shape
    return jax.vmap(lambda key: sample(key, tuple(rest)))(row_keys(key, rows))
