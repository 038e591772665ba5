"""Names of parameters' axes, as Flax's modules give them: taken off, and kept for a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax

from jdl.paths import path_name

_recorded: ContextVar[dict[str, nn.Partitioned] | None] = ContextVar("axis_names", default=None)


@contextmanager
def record_axis_names() -> Iterator[dict[str, nn.Partitioned]]:
    """A context that gathers each named parameter in Flax's box, by its path in its own model.

    Of the models that are initialized within, such as by `jax.eval_shape`.
    """
    found: dict[str, nn.Partitioned] = {}
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


def records_axis_names() -> bool:
    """Whether this is within `record_axis_names`."""
    return _recorded.get() is not None


def without_axis_names(variables: Any) -> Any:
    """The variables of a model as plain arrays, out of the boxes with the names of their axes.

    `nn.with_partitioning` and `nn.with_logical_partitioning` make such boxes.
    """
    named = {
        path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables, is_leaf=_is_named)
        if _is_named(leaf)
    }
    if not named:
        return variables
    if (found := _recorded.get()) is not None:
        found |= {path.removeprefix("params/"): box for path, box in named.items()}
    return jax.tree.map(_value, variables, is_leaf=_is_named)


def _is_named(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)


def _value(leaf: Any) -> Any:
    return leaf.unbox(apply_constraint=False) if _is_named(leaf) else leaf
