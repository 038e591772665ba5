"""Arrays of several processes (hosts): shared among them, and as one of them can read them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def to_host(leaf: Any) -> np.ndarray:
    """The whole array as NumPy's, however it is divided among devices and processes."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def to_local(tree: Any) -> Any:
    """The same arrays, whole on a device of this process where they were shared with others."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else jnp.asarray(to_host(leaf)), tree
    )


def process_sharding() -> NamedSharding:
    """The sharding of arrays that the first device of each process has whole."""
    first_devices = {device.process_index: device for device in reversed(jax.devices())}
    devices = [first_devices[process] for process in sorted(first_devices)]
    return NamedSharding(Mesh(np.asarray(devices), ("processes",)), PartitionSpec())


def from_local(leaf: Any) -> Any:
    """An array of this process as one array of all processes, which have the same one each."""
    if not leaf.is_fully_addressable:
        return leaf
    copy = jax.device_put(leaf, jax.local_devices()[0])
    return jax.make_array_from_single_device_arrays(leaf.shape, process_sharding(), [copy])


def local_copy(leaf: Any) -> Any:
    """This process' copy of an array that all processes have whole."""
    return leaf.addressable_shards[0].data
