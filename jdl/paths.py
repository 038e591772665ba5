"""The paths of leaves in a pytree, such as "Conv_0/kernel"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax


def path_name(path: Any) -> str:
    """A path in a pytree, as in "params/Conv_0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of variables, or of any pytree, by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def differing_paths(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The paths at which arrays by path differ: in shape or type, or because one has none."""
    for path in {**before, **after}:
        arrays = (one.get(path) for one in (before, after))
        old, new = (None if x is None else (tuple(x.shape), x.dtype) for x in arrays)
        if old != new:
            yield path
