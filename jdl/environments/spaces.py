"""Conversion of Gymnasium's and gymnax's action and observation spaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from jdl.environments.actions import Box, Discrete
from jdl.types import Error


def is_space(space: Any, kind: str) -> bool:
    """Whether a space is a `Discrete` or a `Box`: both libraries have classes of these names."""
    return any(base.__name__ == kind for base in type(space).__mro__)


def action_space(space: Any, name: Any) -> Discrete | Box:
    """The action space of jdl for a library's; raises `Error` for an unsupported one."""
    if is_space(space, "Discrete"):
        return Discrete(int(space.n))
    if is_space(space, "Box") and np.issubdtype(np.dtype(space.dtype), np.floating):
        low, high = (
            np.broadcast_to(np.asarray(bound, float), space.shape).ravel()
            for bound in (space.low, space.high)
        )
        if np.isfinite(low).all() and np.isfinite(high).all():
            return Box(tuple(low.tolist()), tuple(high.tolist()))
    raise Error(
        f"{name} takes actions of {space}; only Discrete, and a Box of floats with finite bounds, "
        "are supported."
    )


def num_classes(space: Any) -> int | None:
    """The number of elements of a Discrete space, the width of one-hot observations; or None."""
    return int(space.n) if is_space(space, "Discrete") else None


def first_index(space: Any) -> int:
    """The smallest element of a Discrete space: Gymnasium's `start`, otherwise 0."""
    return int(getattr(space, "start", 0))
