"""Rules by which the weights of another library become the variables of a model, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdl.errors import Error

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How an array is laid out there and here: two functions, each the inverse of the other.

    `to_jdl` gives one array, or as many as a rule names; `to_theirs` takes as many.
    """

    to_jdl: Callable[[np.ndarray], Any]
    to_theirs: Callable[..., np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # PyTorch's (outputs, inputs), Flax's (inputs, outputs)
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # OIHW to HWIO


@dataclass(frozen=True)
class Rule:
    """One name there, and the path or the paths of the same numbers here.

    Each `{}` stands for a number, such as that of a layer: "h.{}.ln_1.weight" has the place
    "params/stack/block_{}/attention_norm/scale". Several paths share an array that holds several
    (the fused query, key and value). `ours=None` leaves a weight out that has no effect or is not
    wanted.
    """

    theirs: str
    ours: str | tuple[str, ...] | None
    layout: Layout = SAME


def to_jdl(arrays: Arrays, rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The arrays by their paths in the variables of jdl's model.

    Raises `Error` where an array has no rule or not its shape, and where two have the same path.
    """
    patterns = [(rule, _pattern(rule.theirs)) for rule in rules]
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        matches = ((rule, pattern.fullmatch(name)) for rule, pattern in patterns)
        rule, match = next(((rule, match) for rule, match in matches if match), (None, None))
        if rule is None or match is None:
            raise Error(
                f"There is no rule for the weight {name} {array.shape}: these weights are of "
                "another architecture or of another head."
            )
        if rule.ours is None:
            continue
        try:
            made = rule.layout.to_jdl(array)
        except (ValueError, IndexError) as error:
            raise Error(f"The weight {name} {array.shape} has another shape: {error}.") from error
        several = isinstance(rule.ours, tuple)
        for path, part in zip(_paths(rule), made if several else [made], strict=True):
            place = path.format(*match.groups())
            if place in found:
                raise Error(f"Two weights belong to {place}; the second is {name}.")
            found[place] = np.asarray(part)
    return found


def to_theirs(arrays: Arrays, rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The arrays under the names of the other library: the inverse of `to_jdl`.

    Of several rules for a path, the first is used. Names of rules with `ours=None` are not written.
    """
    found: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for rule in rules:
        paths = _paths(rule)
        if not paths:
            continue
        pattern = _pattern(paths[0])
        for match in filter(None, map(pattern.fullmatch, arrays)):
            places = [path.format(*match.groups()) for path in paths]
            if not used.isdisjoint(places):
                continue
            parts = [arrays[place] for place in places]
            found[rule.theirs.format(*match.groups())] = np.asarray(rule.layout.to_theirs(*parts))
            used.update(places)
    if left := sorted(set(arrays) - used):
        raise Error(f"There is no rule for {', '.join(left)}: the layout has no place for it.")
    return found


def used_rules(arrays: Arrays, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of names that the arrays have: of several forms of a name, that of this file."""
    patterns = ((rule, _pattern(rule.theirs)) for rule in rules)
    return tuple(rule for rule, pattern in patterns if any(map(pattern.fullmatch, arrays)))


def _paths(rule: Rule) -> tuple[str, ...]:
    return (rule.ours,) if isinstance(rule.ours, str) else rule.ours or ()


def _pattern(template: str) -> re.Pattern[str]:
    """A template's regular expression, in which each `{}` is a group of digits."""
    return re.compile(r"(\d+)".join(map(re.escape, template.split("{}"))))
