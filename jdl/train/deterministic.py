"""A note where runs do not repeat to the bit: on a GPU, without XLA's flag for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax

from jdl.store.environment import DETERMINISTIC_FLAG


def deterministic_notes() -> Iterator[str]:
    """A note for the user, once per process, where a GPU's kernels add in any order."""
    global _noted
    if (
        jax.default_backend() == "gpu"
        and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", "")
        and not _noted
    ):
        _noted = True
        yield (
            "Note: on a GPU this run may not repeat to the bit: set XLA_FLAGS="
            f"{DETERMINISTIC_FLAG} in the environment before it; `jdl doctor` tells whether that "
            "is enough, and what it costs"
        )


_noted = False
