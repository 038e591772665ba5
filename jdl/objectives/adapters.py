"""Adapters: few parameters that are trained on top of weights that are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.keys import stream
from jdl.objectives.frozen_batch_norm import frozen_batch_norm
from jdl.objectives.hints import PROJECTIONS
from jdl.objectives.override import in_precision_of, map_variables, override
from jdl.patterns import is_bias, matching
from jdl.types import Array, Batch, Error, Key, Objective, Variables

Paths = dict[str, Array]
_flat = partial(flatten_dict, sep="/")
_nested = partial(unflatten_dict, sep="/")


def train_adapters(
    objective: Objective,
    name: str,
    make: Callable[[Key, Paths, Paths], Paths],
    merge: Callable[[Variables], Variables],
    train: str | None,
    hold_statistics: bool,
    numbers: Mapping[str, float] | None = None,
) -> Objective:
    """The same objective, which trains adapters and what `train` matches, and nothing else.

    All other parameters are the entry "base" of the collection `name` of the model state, beside
    `numbers` that are kept too. `make` gives the adapters for them, by path, of them and of all
    parameters, and `merge` the variables of the plain model.
    """

    def init(key: Key, batch: Batch) -> Variables:
        variables = objective.init(key, batch)
        if name in variables:
            raise Error(f"This objective has adapters already: use {name} once, with 'one|other'.")
        if not isinstance(variables["params"], Mapping):
            raise Error(
                f"{name} needs parameters in dicts: let init of the jdl.Model return a dict."
            )
        paths = _flat(variables["params"])
        full = [] if train is None else matching(train, paths, f"{name}(train)")
        full += [path for path in paths if path.startswith(PROJECTIONS) and path not in full]
        base = {path: x for path, x in paths.items() if path not in full}
        trained = {path: paths[path] for path in full} | make(stream(key, name), base, paths)
        kept = {entry: jnp.float32(number) for entry, number in (numbers or {}).items()}
        return {**variables, "params": _nested(trained), name: {"base": _nested(base), **kept}}

    adapted = override(map_variables(objective, merge, keep=name), init=init)
    if not hold_statistics:
        return adapted
    return frozen_batch_norm(adapted, lambda path: train is None or not re.search(train, path))


def merged(
    variables: Variables, name: str, parts: tuple[str, ...], change: Callable[[Paths, Paths], Paths]
) -> Variables:
    """The variables of the plain model: `change(weights, trained)` gives them with adapters.

    `parts` are the last names in the paths of adapters, which the plain model does not have. Raises
    `Error` where the weights below them are missing.
    """
    trained = _flat(variables["params"])
    base = in_precision_of(trained, _flat(variables[name]["base"]))
    full = {path: x for path, x in trained.items() if path.rpartition("/")[2] not in parts}
    adapted = {path.rpartition("/")[0] for path in trained.keys() - full.keys()}
    if missing := sorted(adapted - base.keys()):
        raise Error(
            f"There are no weights {', '.join(missing)} below the adapters: of quantized ones give "
            "jdl.objectives.dequantize_variables(variables)."
        )
    rest = {collection: tree for collection, tree in variables.items() if collection != name}
    return {**rest, "params": _nested(change(base | full, trained))}


def matrices(base: Paths, pattern: str, name: str) -> list[str]:
    """The paths of the weight matrices that match, of those that are not trained in full."""
    paths = [path for path, weight in base.items() if weight.ndim > 1 and not is_bias(path)]
    return matching(pattern, paths, name, "weight matrices that are not trained in full")
