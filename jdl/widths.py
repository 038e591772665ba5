"""How much wider a model is than a narrow one, parameter by parameter, from their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax

from jdl.errors import Error
from jdl.paths import by_path
from jdl.patterns import is_bias


def width_factors(narrow: Any, params: Any, rule: Callable[[float, float], float]) -> Any:
    """A tree like the parameters: what `rule` gives for the fan-in and the fan-out of each.

    Both are relative to those of the narrow model; the two trees have arrays or their shapes. The
    last axis is the fan-out, the one before it the fan-in (dense and convolution kernels, those of
    experts, tables of embeddings); the fan-in of biases and vectors is 1. Raises `Error` where the
    models differ in more than widths, in an axis that is neither of these, or where nothing has a
    fan-in alone that grows: no output layer, or one that is tied to the embedding.
    """
    shapes, wide = _shapes(narrow), _shapes(params)
    if all(path.startswith("params/") for path in shapes):
        raise Error('narrow has the parameters alone: variables["params"] of the narrow model.')
    if differing := sorted(shapes.keys() ^ wide.keys()):
        raise Error(
            "The narrow model must differ in width alone, with the same layers. Parameters of one "
            f"of the two models only: {', '.join(differing[:4])}{', ...' * (len(differing) > 4)}."
        )
    ratios = [_ratios(path, shapes[path], shape) for path, shape in wide.items()]
    if any(min(ratio) < 1 for ratio in ratios):
        raise Error("The narrow model is wider than this one: give them the other way round.")
    grows = [fan_out != 1 for fan_in, fan_out in ratios if fan_in != 1]
    if grows and all(grows):
        raise Error(
            "Of the parameters whose fan-in differs from the narrow model's, each differs in its "
            "fan-out too: there is no output layer of a fixed size. Where it is tied to the "
            "embedding, give it weights of its own, such as GPT(..., tied=False)."
        )
    return jax.tree.unflatten(jax.tree.structure(params), [rule(*ratio) for ratio in ratios])


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = by_path(params)
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves.values()):
        raise Error(
            "narrow must be the parameters of the narrow model, or their shapes: "
            'jax.eval_shape(objective.init, key, batch)["params"].'
        )
    return {path: leaf.shape for path, leaf in leaves.items()}


def _ratios(path: str, narrow: tuple[int, ...], wide: tuple[int, ...]) -> tuple[float, float]:
    """The ratios of fan-in and fan-out of one parameter."""
    # The rows of an embedding are tokens or places, and no width.
    axes = 1 if is_bias(path) or re.search("(table|positions|embedding)$", path) else 2
    if len(narrow) != len(wide) or narrow[:-axes] != wide[:-axes]:
        raise Error(
            f"The narrow model has {path} of the shape {narrow}, and this one of {wide}: they may "
            f"differ in the last {'axis' if axes == 1 else 'two axes'} alone, the width."
        )
    ratios = [of_wide / of_narrow for of_wide, of_narrow in zip(wide, narrow, strict=True)]
    fan_in, fan_out = [1.0, 1.0, *ratios][-2:]
    return fan_in, fan_out
