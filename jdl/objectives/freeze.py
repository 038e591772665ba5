"""Freezing parameters, for fine-tuning."""

from __future__ import annotations

import re

from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.objectives.frozen_batch_norm import frozen_batch_norm
from jdl.objectives.hints import PROJECTIONS
from jdl.objectives.override import in_precision_of, map_variables, override
from jdl.patterns import matching
from jdl.types import Batch, Error, Key, Objective, Variables

FROZEN = "frozen"


def freeze(objective: Objective, pattern: str, hold_statistics: bool = True) -> Objective:
    """Freezing parameters, for fine-tuning: those whose path matches `pattern` are not trained.

    They move from the collection "params" to "frozen" in the model state: they have no gradient, no
    optimizer state and no weight decay. `pattern` is a regular expression, searched (`re.search`)
    in paths like "Conv_0/kernel". `merge_frozen` gives the variables of the model itself.

    Frozen batch normalization: where BatchNorm's running statistics match too, such as
    "BatchNorm_0/mean", it normalizes by these in training, as in evaluation, and does not change
    them. With `hold_statistics=False` it normalizes by the batch, and updates them. This is for
    layers of Flax; a stateful `jdl.Model` does with its state what its `apply` does.
    """

    def init(key: Key, batch: Batch) -> Variables:
        return _split(objective.init(key, batch), pattern)

    frozen = override(map_variables(objective, merge_frozen, keep=FROZEN), init=init)
    if not hold_statistics:
        return frozen
    return frozen_batch_norm(frozen, lambda path: re.search(pattern, path) is not None)


def _split(variables: Variables, pattern: str) -> Variables:
    """The variables with the matching parameters in the collection "frozen"."""
    if FROZEN in variables:
        raise Error(
            "This objective has frozen parameters already: freeze once, with a pattern like "
            "'one|other'."
        )
    if not isinstance(variables["params"], dict):
        raise Error("freeze needs parameters in dicts: let init of the jdl.Model return a dict.")
    paths = flatten_dict(variables["params"], sep="/")
    frozen = {
        path: paths[path]
        for path in matching(pattern, paths, "freeze")
        if not path.startswith(PROJECTIONS)  # of `distil`: they are fresh
    }
    if len(frozen) == len(paths):
        raise Error(
            f"freeze: {pattern!r} matches all of the parameters, and nothing is left to train: "
            f"choose a pattern for some of {', '.join(paths)}."
        )
    trained = {path: v for path, v in paths.items() if path not in frozen}
    return {
        **variables,
        "params": unflatten_dict(trained, sep="/"),
        FROZEN: unflatten_dict(frozen, sep="/"),
    }


def merge_frozen(variables: Variables) -> Variables:
    """The variables of the plain model: with the parameters of `freeze` in "params" again.

    Variables without frozen parameters stay as they are.
    """
    if FROZEN not in variables:
        return variables
    frozen = in_precision_of(variables["params"], variables[FROZEN])
    paths = flatten_dict(variables["params"], sep="/") | flatten_dict(frozen, sep="/")
    rest = {name: v for name, v in variables.items() if name != FROZEN}
    return {**rest, "params": unflatten_dict(paths, sep="/")}
