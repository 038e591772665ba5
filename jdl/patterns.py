"""Regular expressions that are searched in the paths of parameters, such as "Conv_0/kernel"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import jax

from jdl.errors import Error
from jdl.paths import path_name

BALANCE_BIAS = "balance_bias"  # the name of the biases that balance a mixture of experts


def is_bias(path: str) -> bool:
    """Whether the path is that of a bias, which has one axis, or of experts and heads two."""
    return path.rpartition("/")[2] == "bias"


def balance_biases(params: Any) -> Any:
    """Which parameters are biases that balance experts (`jdl.optim.balance_experts`), as a tree.

    Their gradients are no gradients of the loss but errors of loads, whole numbers: they are
    float32 in mixed precision too, which keeps these exact, and no part of a gradient's norm.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path_name(path[-1:]) == BALANCE_BIAS, params
    )


def matching(pattern: str, paths: Iterable[str], name: str, of: str = "parameters") -> list[str]:
    """The paths in which the pattern is found (`re.search`).

    Raises `Error` where it is found in none, or is no regular expression. `name` says whose
    pattern it is, such as "freeze", and `of` what the paths are of.
    """
    paths = list(paths)
    if not isinstance(pattern, str):
        raise Error(f"{name}: the pattern must be a string, not {pattern!r}.")
    try:
        found = [path for path in paths if re.search(pattern, path)]
    except re.error as error:
        raise Error(f"{name}: {pattern!r} is no regular expression: {error}.") from error
    if not found:
        raise Error(
            f"{name}: {pattern!r} matches none of the {of}: choose a pattern for some of "
            f"{', '.join(paths) or 'these, which are none'}."
        )
    return found
