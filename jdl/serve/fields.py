"""Fields of a JSON document, of a type and within limits: `RequestError` 422 for others."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from jdl.serve.limits import RequestError

SEEDS = 1 << 31


def check_names(document: Mapping[str, Any], names: Sequence[str]) -> None:
    """`RequestError` for a field that there is not."""
    if unknown := document.keys() - set(names):
        raise wrong(f"There is no {min(unknown)[:100]!r}; there are {', '.join(names)}.")


def seed_of(document: Mapping[str, Any]) -> int:
    """The field `seed`; one that is drawn where it is not given."""
    return int(number_of(document, "seed", secrets.randbelow(SEEDS), 0, SEEDS - 1, whole=True))


def number_of(
    document: Mapping[str, Any],
    name: str,
    default: float,
    low: float,
    high: float,
    whole: bool = False,
) -> float:
    """A field that is a number from `low` to `high`, or the default."""
    value = document.get(name)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise wrong(f"{name} must be {kind} from {low:,} to {high:,}.")
    return value


def flag_of(document: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false, which is the default."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(f"{name} must be true or false.")
    return bool(value)


def as_object(value: Any, name: str = "The body") -> dict[str, Any]:
    """A JSON value that must be an object."""
    if not isinstance(value, dict):
        raise wrong(f"{name} must be an object.")
    return value


def wrong(message: str) -> RequestError:
    """422: a field that is not as it must be."""
    return RequestError(422, message)
