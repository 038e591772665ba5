"""Fully sharded data parallel (FSDP): where parameters are used whole, and how they become so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")

# JAX's caches include this context in their keys: a function that was traced outside of the context
# is traced again within it.
_gather = jax.make_user_context(None)


def gather_params(params: Tree) -> Tree:
    """All-gather of fully sharded parameters (FSDP), for a loss or a rollout that uses them.

    A learner calls it within the function whose gradient it takes, so that the gradient leaves that
    function in the parameters' own sharding (reduce-scatter). Outside of `gathering_params` it has
    no effect.
    """
    return params if _gather.value is None else _gather.value(params)


def gathering_params(gather: Callable[[Any], Any] | None) -> AbstractContextManager[None]:
    """A context in which `gather_params` is this function, which must be hashable."""
    return _gather(gather)
