"""LoRA and DoRA in the layout of Hugging Face's PEFT, which is "there" in what follows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jdl.objectives.lora import LORA, MAGNITUDE, A, B, lora
from jdl.types import Error, Objective, Variables
from jdl.weights.files import Arrays
from jdl.weights.peft import WITHOUT_EFFECT, Config, Method, Parts, exactly, without
from jdl.weights.rules import CONV, Rule

READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}
UNUSED = {
    *("layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core"),
    "qalora_group_size",
}
DEFAULTS: dict[str, tuple[Any, ...]] = {  # other initial weights than these change the base too
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


def _write(rule: Rule, places: list[str], trained: Arrays, weights: Arrays) -> Parts:
    """The adapter of a matrix there, from those of one or several matrices here."""
    adapters = [_adapter(place, trained, weights[place]) for place in places]
    a = np.concatenate([parts[A].T for parts in adapters])
    b = np.zeros((sum(parts[B].shape[1] for parts in adapters), len(a)), a.dtype)
    row = column = 0
    for parts in adapters:
        rank, outputs = parts[B].shape
        b[row : row + outputs, column : column + rank] = parts[B].T
        row, column = row + outputs, column + rank
    found = {A: a, B: b}
    if any(f"{place}/{MAGNITUDE}" in trained for place in places):
        found[MAGNITUDE] = np.concatenate([parts[MAGNITUDE] for parts in adapters])
    if rule.layout is CONV:
        height, width, inputs, _ = weights[places[0]].shape
        found[A] = a.reshape(-1, height, width, inputs).transpose(0, 3, 1, 2)
        found[B] = b[:, :, None, None]
        found |= {MAGNITUDE: found[MAGNITUDE][None, :, None, None]} if MAGNITUDE in found else {}
    return found


def _adapter(path: str, trained: Arrays, weight: np.ndarray) -> Parts:
    """The adapter of a matrix here; one of rank 0 where it has none."""
    matrix = weight.reshape(-1, weight.shape[-1])
    none = {
        A: np.zeros((len(matrix), 0), weight.dtype),
        B: np.zeros((0, matrix.shape[1]), weight.dtype),
        MAGNITUDE: np.linalg.norm(matrix, axis=0),
    }
    return {part: trained.get(f"{path}/{part}", array) for part, array in none.items()}


def _read(config: Config, module: str, parts: Parts, rule: Rule, places: list[str]) -> Arrays:
    """The adapters of the matrices here that are the matrix of one adapter there."""
    if not {A, B} <= parts.keys():
        raise Error(f"The adapter of {module} has one of lora_A and lora_B alone.")
    a, b = parts[A], parts[B]
    if rule.layout is CONV:
        a, b = a.transpose(0, 2, 3, 1).reshape(len(a), -1), b.reshape(len(b), -1)
    factor = _module_scale(config, module, len(a)) / _scale(
        config, config["r"], config["lora_alpha"]
    )
    scaled = b if factor == 1 else b * np.asarray(factor, b.dtype)
    found: Arrays = {}
    for place, own in zip(places, np.split(scaled, len(places)), strict=True):
        used = own.any(0) if own.any() else np.ones(len(a), bool)  # not the ranks of the others
        found |= {f"{place}/{A}": a[used].T, f"{place}/{B}": own[:, used].T}
    if MAGNITUDE in parts:
        magnitudes = np.split(parts[MAGNITUDE].reshape(-1), len(places))
        found |= {f"{p}/{MAGNITUDE}": x for p, x in zip(places, magnitudes, strict=True)}
    return found


def _write_config(adapters: Mapping[str, Parts], variables: Variables) -> dict[str, Any]:
    """The options of adapters, whose scale is alpha / rank."""
    scale = float(variables[LORA]["scale"])
    ranks = {module: len(parts[A]) for module, parts in adapters.items()}
    rank = min(ranks.values())
    others = {module: r for module, r in ranks.items() if r != rank}
    return {
        "r": rank,
        "lora_alpha": _number(scale * rank),
        "rank_pattern": others,
        "alpha_pattern": {module: _number(scale * r) for module, r in others.items()},
        "use_dora": any(MAGNITUDE in parts for parts in adapters.values()),
        "bias": "none",
        "lora_dropout": 0.0,
    }


def _number(alpha: float) -> float | int:
    """A whole number where it is one: 16, not 16.0."""
    return round(alpha) if alpha == round(alpha) else alpha


def _adapt(
    objective: Objective, config: Config, paths: Iterable[str], train: str | None
) -> Objective:
    return lora(
        objective,
        exactly(without(A, paths)),
        config["r"],
        config["lora_alpha"],
        train,
        config.get("use_rslora", False),
        config.get("use_dora", False),
    )


def _module_scale(config: Config, module: str, rank: int) -> float:
    """The scale of a module's adapter, whose alpha may be its own."""
    patterns = config.get("alpha_pattern") or {}
    alphas = (a for p, a in patterns.items() if re.match(rf"(.*\.)?({p})$", module))
    return _scale(config, rank, next(alphas, config["lora_alpha"]))


def _scale(config: Config, rank: int, alpha: float) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


LORA_FILES = Method(
    "LORA",
    LORA,
    {A: "lora_A.weight", B: "lora_B.weight", MAGNITUDE: "lora_magnitude_vector"},
    frozenset(READ | UNUSED | WITHOUT_EFFECT),
    DEFAULTS,
    frozenset({"r", "lora_alpha"}),
    _write,
    _read,
    _write_config,
    _adapt,
)
