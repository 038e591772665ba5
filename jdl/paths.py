"""The paths of leaves in a pytree, such as "Conv_0/kernel"."""

from __future__ import annotations

from typing import Any

import jax


def path_name(path: Any) -> str:
    """A path in a pytree, as in "params/Conv_0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of variables, or of any pytree, by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
