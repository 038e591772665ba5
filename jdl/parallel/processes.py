"""Collective operations of the processes (hosts) of one run, on JAX's distributed runtime.

All processes compute, and only the first writes. All must call the collectives in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the only place that has the client of the key-value store
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from jdl.types import Error

WAIT_MILLISECONDS = 30 * 60 * 1000  # for another process; one that is lost ends the wait before


def several() -> bool:
    """Whether several processes train this run."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the first process, which writes the files."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """All-gather of a text: the texts of all processes, in their order."""
    if not several():
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([len(data)], np.int32))).ravel()
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def publish(name: str, text: str) -> None:
    """Sets this process's entry under a name in the key-value store of JAX's coordination service.

    No collective: no process waits for another, and it may be called from any thread.
    """
    _client().key_value_set(f"jdl/{name}/{jax.process_index()}", text, allow_overwrite=True)


def withdraw(name: str) -> None:
    """Deletes this process's entry under a name; without effect where there is none."""
    _client().key_value_delete(f"jdl/{name}/{jax.process_index()}")


def published(name: str) -> dict[int, str]:
    """The newest entry under a name of each process that has published one, by its index."""
    entries = _client().key_value_dir_get(f"jdl/{name}/")
    return {int(key.rpartition("/")[2]): text for key, text in entries}


def collect(name: str, text: str) -> list[str]:
    """Gathers a text of each process in the first one, in their order; others get an empty list.

    All must call it, with a name that no other call of that time has; it may be in a thread, beside
    collectives of devices: it uses the key-value store.
    """
    if not several():
        return [text]
    publish(name, text)
    if not is_first():
        return []
    keys = [f"jdl/{name}/{process}" for process in range(jax.process_count())]
    texts = [_client().blocking_key_value_get(key, WAIT_MILLISECONDS) for key in keys]
    for key in keys:  # not their folder, in which another name's may lie
        _client().key_value_delete(key)
    return texts


def wait_for_all(name: str) -> None:
    """A barrier of all processes, which may be in a thread, beside collectives of devices."""
    if several():
        _client().wait_at_barrier(f"jdl/{name}", WAIT_MILLISECONDS)


def _client() -> Any:
    return distributed.global_state.client


def connect(mesh: Mesh | None) -> None:
    """Connects the devices of several processes, along every set of axes of the mesh.

    A group of devices is connected by its first collective, for which Gloo (the collectives of
    CPUs) waits 30 s: too short if one process still compiles its step. For later ones it waits
    half an hour. So the first is this one, for which all processes are ready at the same time.
    """
    if mesh is None or not several():
        return
    axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    groups = list(chain.from_iterable(combinations(axes, n + 1) for n in range(len(axes))))

    def sums(x: jax.Array) -> list[jax.Array]:
        return [jax.lax.psum(x, group) for group in groups]

    mapped = jax.shard_map(
        sums, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    gather("")
    jax.block_until_ready(jax.jit(mapped)(np.ones(1, np.float32)))


def together(action: Callable[[], Any]) -> None:
    """Calls a function in every process; if it raises `Error` in any, all raise the first error."""
    message = ""
    try:
        action()
    except Error as error:
        message = str(error) or type(error).__name__
        if not several():
            raise
    first = next(filter(None, gather(message)), "")
    if first:
        raise Error(first)
