"""Rules by which the weights of another library become the variables of a model, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
    find = finder(rules)
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        rule, places = find(name)
        if rule is None:
            raise Error(
                f"There is no rule for the weight {name} {array.shape}: these weights are of "
                "another architecture or of another head."
            )
        if not places:
            continue
        try:
            made = rule.layout.to_jdl(array)
        except (ValueError, IndexError) as error:
            raise Error(f"The weight {name} {array.shape} has another shape: {error}.") from error
        several = isinstance(rule.ours, tuple)
        for place, part in zip(places, made if several else [made], strict=True):
            if place in found:
                raise Error(f"Two weights belong to {place}; the second is {name}.")
            found[place] = np.asarray(part)
    return found


def to_theirs(arrays: Arrays, rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The arrays under the names of the other library: the inverse of `to_jdl`.

    Of several rules for a path, the first is used. Names of rules with `ours=None` are not written.
    """
    rows = list(named(arrays, rules))
    used = {place for _, _, places in rows for place in places}
    if left := sorted(set(arrays) - used):
        raise Error(f"There is no rule for {', '.join(left)}: the layout has no place for it.")
    return {
        name: np.asarray(rule.layout.to_theirs(*(arrays[place] for place in places)))
        for name, rule, places in rows
    }


def finder(rules: Iterable[Rule]) -> Callable[[str], tuple[Rule | None, list[str]]]:
    """A function that gives the rule of a name there, or None, and the paths here, if any."""
    patterns = [(rule, _pattern(rule.theirs)) for rule in rules]

    def find(name: str) -> tuple[Rule | None, list[str]]:
        matches = ((rule, pattern.fullmatch(name)) for rule, pattern in patterns)
        for rule, match in matches:
            if match:
                return rule, [path.format(*match.groups()) for path in _paths(rule)]
        return None, []

    return find


def named(paths: Collection[str], rules: Iterable[Rule]) -> Iterator[tuple[str, Rule, list[str]]]:
    """The names there of these paths, each with its rule and its path or paths."""
    used: set[str] = set()
    for rule in rules:
        if not (templates := _paths(rule)):
            continue
        for match in filter(None, map(_pattern(templates[0]).fullmatch, paths)):
            places = [path.format(*match.groups()) for path in templates]
            if used.isdisjoint(places):
                used.update(places)
                yield rule.theirs.format(*match.groups()), rule, places


def used_rules(arrays: Arrays, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of names that the arrays have: of several forms of a name, that of this file."""
    patterns = ((rule, _pattern(rule.theirs)) for rule in rules)
    return tuple(rule for rule, pattern in patterns if any(map(pattern.fullmatch, arrays)))


def _paths(rule: Rule) -> tuple[str, ...]:
    return (rule.ours,) if isinstance(rule.ours, str) else rule.ours or ()


def _pattern(template: str) -> re.Pattern[str]:
    """A template's regular expression, in which each `{}` is a group of digits."""
    return re.compile(r"(\d+)".join(map(re.escape, template.split("{}"))))
