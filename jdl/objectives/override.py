"""Objectives made of other objectives: with other methods, or with other variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jdl.types import Batch, Key, LossOutput, Objective, Variables

OF_VARIABLES = ("predict", "decode", "encode", "init_cache", "next_logits")
METHODS = ("init", "loss", "check", "sample_latent", "max_length", *OF_VARIABLES)


def override(objective: Objective, **methods: Any) -> Objective:
    """The same objective with other methods: `override(objective, loss=my_loss)`.

    It has the abilities of the objective (`Predicts`, `Generates`, `Decodes`, ...), and no more.
    """
    new = Objective()
    for name in METHODS:
        if hasattr(objective, name):
            setattr(new, name, methods.get(name, getattr(objective, name)))
    return new


def map_variables(
    objective: Objective, inward: Callable[[Variables], Variables], keep: str
) -> Objective:
    """The same objective, given `inward(variables)` wherever it is given variables.

    The collection `keep` stays in the model state as it is. The caller overrides `init`.
    """

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        output = objective.loss(inward(variables), batch, key, train)
        return replace(output, model_state={**output.model_state, keep: variables[keep]})

    def mapped(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda variables, *arguments: method(inward(variables), *arguments)

    names = [name for name in OF_VARIABLES if hasattr(objective, name)]
    return override(objective, loss=loss, **{n: mapped(getattr(objective, n)) for n in names})
