"""The size of XLA's CPU thread pool, fixed, because the bits of matrix products depend on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
from jax._src import xla_bridge  # the only place that says whether the backend has started

from jdl.store.environment import POOL_VARIABLES, cores

POOL_SIZE = 8  # docs/reproducibility.md has what it costs


def fix_thread_pool_size() -> None:
    """Sets PJRT_NPROC=8 for this process, unless it is set or JAX's backend has started.

    XLA divides matrix products among the threads of a pool, by default one per core; another number
    of threads sums in another order. Call it before the first use of a device.
    """
    if not _is_set() and not xla_bridge.backends_are_initialized():
        os.environ["PJRT_NPROC"] = str(POOL_SIZE)


def thread_pool_notes() -> Iterator[str]:
    """A note for the user, once per process, where bits depend on the number of cores."""
    global _noted
    if not _is_set() and jax.default_backend() == "cpu" and not _noted:
        _noted = True
        yield (
            f"Note: the last bits of the numbers depend on this machine's {cores()} cores, because "
            f"JAX was in use before jdl: set PJRT_NPROC={POOL_SIZE} in the environment to make "
            "them equal on all machines"
        )


def _is_set() -> bool:
    return any(name in os.environ for name in POOL_VARIABLES)


_noted = False
