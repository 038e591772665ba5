"""What the processes (hosts) of one run do together, on JAX's own distributed runtime.

All of them compute; the first alone writes. They meet at the same points in the same order, or not
at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jdl.types import Error


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """All-gather of a text: that of each process, in their order."""
    if not several():
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([len(data)], np.int32))).ravel()
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def together(action: Callable[[], Any]) -> None:
    """Calls a function in every process; where it raises `Error` in any, all raise the first."""
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
