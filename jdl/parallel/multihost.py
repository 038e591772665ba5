"""Arrays of several processes (hosts): conversion to and from arrays of one process."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def to_host(leaf: Any) -> np.ndarray:
    """The whole array in NumPy, however it is sharded.

    A collective for arrays that are sharded over processes: all must call it.
    """
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def to_local(tree: Any) -> Any:
    """The same tree, with arrays that are sharded over processes gathered onto a local device."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else jnp.asarray(to_host(leaf)), tree
    )


def process_sharding() -> NamedSharding:
    """The sharding that replicates arrays on the first device of each process."""
    first_devices = {device.process_index: device for device in reversed(jax.devices())}
    devices = [first_devices[process] for process in sorted(first_devices)]
    return NamedSharding(Mesh(np.asarray(devices), ("processes",)), PartitionSpec())


def from_local(leaf: Any) -> Any:
    """A replicated global array from equal arrays, one in each process."""
    if not leaf.is_fully_addressable:
        return leaf
    copy = jax.device_put(leaf, jax.local_devices()[0])
    return jax.make_array_from_single_device_arrays(leaf.shape, process_sharding(), [copy])


def local_copy(leaf: Any) -> Any:
    """This process's copy of a replicated array."""
    return leaf.addressable_shards[0].data
