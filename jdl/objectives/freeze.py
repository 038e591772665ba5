"""Freezing parameters, for fine-tuning."""

from __future__ import annotations

import re

from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.objectives.override import in_precision_of, map_variables, override
from jdl.types import Batch, Error, Key, Objective, Variables

FROZEN = "frozen"


def freeze(objective: Objective, pattern: str) -> Objective:
    """Freezing parameters, for fine-tuning: those whose path matches `pattern` are not trained.

    They move from the collection "params" to "frozen" in the model state: they have no gradient, no
    optimizer state and no weight decay. BatchNorm's running statistics are still updated. `pattern`
    is a regular expression, searched (`re.search`) in paths like "Conv_0/kernel".
    """

    def init(key: Key, batch: Batch) -> Variables:
        return _split(objective.init(key, batch), pattern)

    return override(map_variables(objective, _join, keep=FROZEN), init=init)


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
    frozen = {path: v for path, v in paths.items() if re.search(pattern, path)}
    if not frozen or len(frozen) == len(paths):
        matches = "all of the" if frozen else "none of the"
        raise Error(
            f"freeze({pattern!r}) matches {matches} parameters: choose a pattern for some of "
            f"{', '.join(paths)}."
        )
    trained = {path: v for path, v in paths.items() if path not in frozen}
    return {
        **variables,
        "params": unflatten_dict(trained, sep="/"),
        FROZEN: unflatten_dict(frozen, sep="/"),
    }


def _join(variables: Variables) -> Variables:
    """The variables with all parameters in the collection "params" again."""
    frozen = in_precision_of(variables["params"], variables[FROZEN])
    paths = flatten_dict(variables["params"], sep="/") | flatten_dict(frozen, sep="/")
    rest = {name: v for name, v in variables.items() if name != FROZEN}
    return {**rest, "params": unflatten_dict(paths, sep="/")}
