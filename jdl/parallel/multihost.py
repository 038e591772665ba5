"""Arrays of several processes: as one that all share, and as what one of them can read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def to_host(leaf: Any) -> np.ndarray:
    """The array, however it is divided among devices and processes."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def to_local(tree: Any) -> Any:
    """The same arrays on a device of this process, whole, where they are shared with others."""

    def one(leaf: Any) -> Any:
        return leaf if leaf.is_fully_addressable else jnp.asarray(to_host(leaf))

    return jax.tree.map(one, tree)


def replicated_over_processes() -> NamedSharding:
    """Arrays that the first device of each process has whole."""
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.asarray([firsts[process] for process in sorted(firsts)]), ("processes",))
    return NamedSharding(mesh, PartitionSpec())


def shared(leaf: Any) -> Any:
    """An array that lies in this process alone, as one that all have."""
    if not leaf.is_fully_addressable:
        return leaf
    own = jax.device_put(leaf, jax.local_devices()[0])
    return jax.make_array_from_single_device_arrays(leaf.shape, replicated_over_processes(), [own])


def own(leaf: Any) -> Any:
    """What this process has of an array that all have whole."""
    return leaf.addressable_shards[0].data
