"""Regular expressions that are searched in the paths of parameters, such as "Conv_0/kernel"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jdl.errors import Error
from jdl.paths import path_name

BALANCE_BIAS = "balance_bias"  # the name of the biases that balance a mixture of experts


def is_bias(path: str) -> bool:
    """Whether the path is that of a bias, which has one axis, or of experts and heads two."""
    return path.rpartition("/")[2] == "bias"


def input_axes(path: str, params: Mapping[str, Any]) -> tuple[int, int]:
    """Where the axes of a weight's inputs begin and end; after them are those of its outputs.

    The last but one, after a convolution's window, but the kernels of Flax's attention (Linen's
    MultiHeadDotProductAttention, NNX's MultiHeadAttention) have heads: query, key and value are
    (inputs, heads, head_dim) and out (heads, head_dim, outputs). What is beside a weight of these
    names tells them from convolutions and stacks of matrices. `params` are the arrays by path, and
    a stage, a freeze or adapters may hide some: where all are hidden, the weight is taken for
    attention at Flax's own width alone, of heads as wide together as the inputs or the outputs.
    """
    weight = params[path]
    match = re.fullmatch("(|.*/)(query|key|value|out)/kernel", path)
    if match and weight.ndim == 3:
        first, second, last = weight.shape
        if match[2] == "out":
            heads, is_attention = (first, second), first * second == last
            beside = {f"{name}/kernel": slice(1, None) for name in ("query", "key", "value")}
        else:
            heads, is_attention = (second, last), second * last == first
            beside = {"out/kernel": slice(-1), f"{match[2]}/bias": slice(None)}
        shapes = {name: getattr(params.get(match[1] + name), "shape", None) for name in beside}
        found = [shape[beside[name]] for name, shape in shapes.items() if shape is not None]
        if all(shape == heads for shape in found) if found else is_attention:
            return (0, 2) if match[2] == "out" else (0, 1)
    return weight.ndim - 2, weight.ndim - 1


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
