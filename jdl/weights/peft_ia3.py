"""IA3 in the layout of Hugging Face's PEFT, which is "there" in what follows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jdl.objectives.ia3 import IA3, INPUTS, OUTPUTS, ia3
from jdl.types import Error, Objective, Variables
from jdl.weights.files import Arrays
from jdl.weights.peft import WITHOUT_EFFECT, Config, Method, Parts, exactly, without
from jdl.weights.rules import CONV, Rule

FEEDFORWARD = "feedforward_modules"  # those whose inputs are multiplied, and not their outputs


def _write(rule: Rule, places: list[str], trained: Arrays, weights: Arrays) -> Parts:
    """The factors of a matrix there, (outputs, 1) or (1, inputs), from those of matrices here."""
    outputs, inputs = (
        [trained.get(f"{place}/{part}") for place in places] for part in (OUTPUTS, INPUTS)
    )
    first = inputs[0]
    if first is None and not any(x is not None for x in inputs):
        ones = (np.ones(weights[place].shape[-1:], weights[place].dtype) for place in places)
        found = [one if x is None else x for one, x in zip(ones, outputs, strict=True)]
        factors = np.concatenate(found)
        return {OUTPUTS: factors[None, :, None, None] if rule.layout is CONV else factors[:, None]}
    if any(x is not None for x in outputs):
        raise Error(
            f"{places[0]} has factors of inputs and of outputs, and a module of PEFT has those of "
            "one: leave it out of one of the patterns."
        )
    if first is None or not all(x is not None and np.array_equal(x, first) for x in inputs):
        raise Error(
            f"The inputs of {', '.join(places)} are those of one matrix in PEFT, and have other "
            "factors here: multiply their outputs."
        )
    return {INPUTS: first[None, :, None, None] if rule.layout is CONV else first[None]}


def _read(config: Config, module: str, parts: Parts, rule: Rule, places: list[str]) -> Arrays:
    """The factors of the matrices here that are the matrix of a module there."""
    (factors,) = parts.values()
    flat = factors.reshape(-1)
    if _multiplies_inputs(config, module):
        return {f"{place}/{INPUTS}": flat for place in places}
    split = np.split(flat, len(places))
    return {f"{place}/{OUTPUTS}": x for place, x in zip(places, split, strict=True)}


def _multiplies_inputs(config: Config, module: str) -> bool:
    """Whether a module is one of the feed-forward ones, as PEFT decides it."""
    patterns = config.get(FEEDFORWARD) or []
    if isinstance(patterns, str):
        return re.fullmatch(patterns, module) is not None
    return module.endswith(tuple(patterns))


def _write_config(adapters: Mapping[str, Parts], variables: Variables) -> dict[str, Any]:
    return {FEEDFORWARD: [module for module, parts in adapters.items() if INPUTS in parts]}


def _adapt(
    objective: Objective, config: Config, paths: Iterable[str], train: str | None
) -> Objective:
    outputs, inputs = (without(part, paths) for part in (OUTPUTS, INPUTS))
    return ia3(
        objective,
        exactly(outputs) if outputs else None,
        exactly(inputs) if inputs else None,
        train,
    )


IA3_FILES = Method(
    "IA3",
    IA3,
    {OUTPUTS: "ia3_l", INPUTS: "ia3_l"},
    frozenset(WITHOUT_EFFECT | {FEEDFORWARD, "init_ia3_weights"}),
    {},
    frozenset({"target_modules"}),
    _write,
    _read,
    _write_config,
    _adapt,
)
