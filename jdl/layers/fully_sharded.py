"""Fully sharded data parallel (FSDP): where parameters are used whole, and how they become so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")

# JAX's caches include this context in their keys: a function that was traced outside of the context
# is traced again within it.
_gather = jax.make_user_context(None)


# Of each parameter that was gathered, by its id, itself and what it was gathered from.
_divided: ContextVar[dict[int, tuple[Any, Any]] | None] = ContextVar("divided", default=None)


def gather_params(params: Tree) -> Tree:
    """All-gather of fully sharded parameters (FSDP), for a loss or a rollout that uses them.

    A learner calls it within the function whose gradient it takes, so that the gradient leaves that
    function in the parameters' own sharding (reduce-scatter). Outside of `gathering_params` it has
    no effect.
    """
    known = _divided.get()
    if _gather.value is None or known is None:
        return params
    whole = _gather.value(params)
    for divided, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        known[id(leaf)] = leaf, divided
    return whole


def ungathered(params: Tree) -> tuple[Tree, Callable[[Any], Any]]:
    """The parameters as they were before `gather_params`, and the function that gathers parts.

    For a layer that gathers its parameters itself, where it uses them: what it does not use of the
    whole ones is never computed. Those that were changed since stay whole, and nothing is left to
    gather.
    """
    known = _divided.get() or {}
    leaves, treedef = jax.tree.flatten(params)
    if _gather.value is None or not all(id(leaf) in known for leaf in leaves):
        return params, lambda part: part
    return jax.tree.unflatten(treedef, [known[id(leaf)][1] for leaf in leaves]), _gather.value


@contextmanager
def gathering_params(gather: Callable[[Any], Any] | None) -> Iterator[None]:
    """A context in which `gather_params` is this function, which must be hashable."""
    token = _divided.set({})
    try:
        with _gather(gather):
            yield
    finally:
        _divided.reset(token)
