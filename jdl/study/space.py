"""Search spaces: which values of which fields of a config a study tries.

Values are texts, as on a command line, until they are put into a config: so they are recorded as
they are read, and have the types that the fields have.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import tyro

from jdl.config import Config
from jdl.types import Error

C = TypeVar("C", bound=Config)
DIGITS = 4  # significant digits of drawn numbers: short to type, and the same on all machines
CALL = re.compile(r"(\w+)\((.*)\)")
UNIONS = (typing.Union, types.UnionType)
NOT_SEARCHED = {
    "name": "it names the folder of the runs",
    "seed": "--seeds trains each trial with several",
}


class Distribution(Protocol):
    """What a value is drawn from, by inverse transform sampling."""

    def at(self, share: float) -> str:
        """The value below which this share, from 0 to 1, of the distribution lies."""

    def ends(self) -> Sequence[str]:
        """Values that show whether all fit into a field."""


@dataclass(frozen=True)
class Interval:
    """A uniform distribution, or of the logarithm; over whole numbers, both ends are among them."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> str:
        """The value below which this share of the interval lies."""
        low, high = self.low, self.high + self.whole
        return self.rounded(low * (high / low) ** share if self.log else low + share * (high - low))

    def rounded(self, value: float) -> str:
        """A value of the interval as a text: a whole number, or of four significant digits."""
        value = math.floor(value) if self.whole else float(f"{value:.{DIGITS}g}")
        return self._text(min(max(value, self.low), self.high))

    def ends(self) -> Sequence[str]:
        """The ends of the interval."""
        return self._text(self.low), self._text(self.high)

    def _text(self, value: float) -> str:
        return str(int(value)) if self.whole else repr(float(value))


@dataclass(frozen=True)
class Choice:
    """A uniform distribution over some values (categorical)."""

    values: tuple[str, ...]

    def at(self, share: float) -> str:
        """The value at this share of them."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def ends(self) -> Sequence[str]:
        """All values."""
        return self.values


@dataclass(frozen=True)
class Space:
    """A search space: fields whose values are combined (a grid), and fields that are drawn."""

    grid: Mapping[str, tuple[str, ...]]
    random: Mapping[str, Distribution]

    @property
    def grid_size(self) -> int:
        """The number of combinations of the grid."""
        return math.prod(len(values) for values in self.grid.values())

    def point(self, number: int, shares: Mapping[str, float]) -> dict[str, str]:
        """The values of a trial: combination `number` of the grid, which comes again, and draws."""
        values = {}
        for field, choices in reversed(list(self.grid.items())):  # the last field changes first
            number, n = divmod(number, len(choices))
            values[field] = choices[n]
        drawn = {field: of.at(shares[field]) for field, of in self.random.items()}
        return {field: values[field] for field in self.grid} | drawn


def parse_space(grid: Sequence[str], random: Sequence[str], config: type[Config]) -> Space:
    """The space of --grid lr=1e-3,3e-3 and --random "dropout=uniform(0, 0.5)".

    Raises `Error` where a field, a distribution or a value does not fit the config.
    """
    space = Space(
        {field: _values(field, text) for field, text in _assignments("grid", grid)},
        {
            field: _distribution(field, text, config)
            for field, text in _assignments("random", random)
        },
    )
    if both := sorted(space.grid.keys() & space.random.keys()):
        raise Error(f"{both[0]} is both in --grid and in --random: leave it out of one.")
    if not space.grid and not space.random:
        raise Error(
            "A study needs fields to search: --grid lr=1e-3,3e-3, or --random "
            "'dropout=uniform(0, 0.5)' with --trials."
        )
    values = dict(space.grid) | {field: of.ends() for field, of in space.random.items()}
    for field, texts in values.items():
        typed = [field_value(config, field, text) for text in texts]
        for text, value in zip(texts, typed, strict=True):
            numbers = value if isinstance(value, tuple | list) else [value]
            if any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
                raise Error(f"{field}={text}: a value must be finite.")
        if any(value in typed[:n] for n, value in enumerate(typed)):
            raise Error(f"{field}={','.join(texts)} has a value twice.")
    return space


def _assignments(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        field, equals, values = text.partition("=")
        if not equals or not field.strip() or not values.strip():
            example = "lr=1e-3,3e-3" if flag == "grid" else "'dropout=uniform(0, 0.5)'"
            raise Error(f"--{flag} is written as --{flag} {example}, not {text!r}.")
        pairs.append((field.strip().replace("-", "_"), values.strip()))
    if twice := [field for n, (field, _) in enumerate(pairs) if field in dict(pairs[:n])]:
        raise Error(f"--{flag} has {twice[0]} twice: give all its values at once.")
    return pairs


def _values(field: str, text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split(","))


def _distribution(field: str, text: str, config: type[Config]) -> Distribution:
    """The distribution that a text such as "loguniform(1e-4, 1e-1)" describes."""
    match = CALL.fullmatch(text)
    name, inner = match.groups() if match else (text, "")
    values = _values(field, inner)
    if name == "choice" and all(values):
        return Choice(values)
    try:
        low, high = map(float, values)
        known = name in ("uniform", "loguniform")
    except ValueError:
        known = False
    if not known:
        raise Error(
            f"{field}={text} is no distribution: use uniform(LOW, HIGH), loguniform(LOW, HIGH) or "
            "choice(A, B, ...)."
        )
    least = 0 if name == "loguniform" else -math.inf
    if not least < low < high < math.inf:
        above = " above 0" if name == "loguniform" else ""
        raise Error(f"{field}={text}: LOW must be a number{above} and below HIGH.")
    hint = _hint(config, field)
    kinds = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    if str in kinds:
        raise Error(f"{field}={text}: {field} is a text, so write {field}=choice(A, B, ...).")
    whole = int in kinds and float not in kinds
    if whole and not (low.is_integer() and high.is_integer()):
        raise Error(f"{field}={text}: {field} is a whole number, so LOW and HIGH must be too.")
    return Interval(low, high, name == "loguniform", whole)


def _hint(config: type[Config], field: str) -> Any:
    """The type of a field; `Error` where there is none, or it cannot be searched."""
    if field in NOT_SEARCHED:
        raise Error(f"{field} is not searched: {NOT_SEARCHED[field]}.")
    hints = _hints(config)
    if field not in hints:
        names = [name for name in hints if name not in NOT_SEARCHED]
        near = difflib.get_close_matches(field, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}."
        raise Error(f"The config has no field {field!r}: {hint}")
    return hints[field]


def _hints(kind: Any) -> dict[str, Any]:
    """The types of the fields, those of a dataclass within it as part.field."""
    hints = typing.get_type_hints(kind)
    found = {}
    for name in (one.name for one in fields(kind)):
        found[name] = hints[name]
        if is_dataclass(hints[name]):
            found |= {f"{name}.{inner}": hint for inner, hint in _hints(hints[name]).items()}
    return found


def field_value(config: type[Config], field: str, text: str) -> Any:
    """The value of a field that a text stands for, as tyro reads it from a command line."""
    hint = _hint(config, field)
    words = [text] if hint is str else text.split()
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(hint, args=words)
    except SystemExit:
        kind = getattr(hint, "__name__", hint)
        raise Error(f"{field}={text} does not fit: the field is of type {kind}.") from None


def with_values(c: C, values: Mapping[str, str]) -> C:
    """The config with these values; `Error` where it refuses them."""
    typed = {field: field_value(type(c), field, text) for field, text in values.items()}
    try:
        return _with_values(c, {tuple(field.split(".")): value for field, value in typed.items()})
    except (Error, ValueError, TypeError, AssertionError) as error:
        raise Error(f"The config refuses {words(values)}: {error}") from error


def _with_values(part: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """A dataclass with these values of fields, and of fields of dataclasses within; all at once."""
    new = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in dict.fromkeys(path[0] for path in values if len(path) > 1):
        of_part = {p[1:]: value for p, value in values.items() if p[0] == name and len(p) > 1}
        new[name] = _with_values(getattr(part, name), of_part)
    return replace(part, **new)


def words(values: Mapping[str, str]) -> str:
    """Values in one line: lr 0.001, dropout 0.2."""
    return ", ".join(f"{field} {text}" for field, text in values.items())
