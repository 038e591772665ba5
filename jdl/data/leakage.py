"""Data leakage: rows of one split that are in another too, and duplicates within a split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np

from jdl.errors import Error

PART = 1024  # rows that are read at a time
SHOWN = 3  # pairs of rows, and groups, that a report shows
INPUTS = ("x", "codes", "edges", "edge_features")  # what datasets call the inputs of a model


class Rows(Protocol):
    """Rows with named columns, as datasets and sources have."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""


@dataclass(frozen=True)
class EqualRows:
    """Rows of the split `second` that equal a row of `first`; within one split, an earlier row.

    `pairs` are the first of them, as row numbers in `first` and in `second`.
    """

    first: str
    second: str
    count: int  # rows of the second split
    rows: int  # that it has
    pairs: tuple[tuple[int, int], ...]
    other_label: int  # how many of `count` have another y than the row that they equal

    def __str__(self) -> str:
        other = "an earlier row" if self.first == self.second else f"a row of {self.first}"
        text = f"Rows of {self.second} that equal {other}: {self.count:,} of {self.rows:,}"
        text += f", {self.other_label:,} with another y" if self.other_label else ""
        return f"{text} ({_first([f'{b} equals {a}' for a, b in self.pairs], self.count)})"


@dataclass(frozen=True)
class SharedGroups:
    """Groups that have rows in two splits; `values` are the first of them."""

    first: str
    second: str
    count: int
    values: tuple[float, ...]

    def __str__(self) -> str:
        shown = [str(value) for value in self.values]
        text = f"Groups that are in both {self.first} and {self.second}: {self.count:,}"
        return f"{text} ({_first(shown, self.count)})"


@dataclass(frozen=True)
class Leakage:
    """What `leakage` finds. It is true if anything is in two splits."""

    columns: tuple[str, ...]  # that were compared
    groups: tuple[SharedGroups, ...]
    between: tuple[EqualRows, ...]
    within: tuple[EqualRows, ...]

    def __bool__(self) -> bool:
        return bool(self.groups or self.between)

    def __str__(self) -> str:
        found = [*self.groups, *self.between, *self.within]
        none = "No row is in two splits" if self.within else "No row comes twice"
        compared = f", comparing {', '.join(self.columns)} byte by byte"
        return "\n".join([*([] if self else [none + compared]), *map(str, found)])


def leakage(
    *, columns: Sequence[str] = (), group: str = "", limit: int | None = None, **splits: Rows
) -> Leakage:
    """Looks for data leakage: `leakage(train=train, test=test)` finds the rows that are in both.

    It also finds duplicates within each split, and, with the name of a column `group`, groups that
    have rows in two splits. Rows are equal if the bytes of their `columns` are, before transforms
    and without padding: by default the inputs x, codes, edges and edge_features, those that there
    are, or all columns but y if there is none of them; name yours if there are others. Of each
    split the first `limit` rows are read, in parts. By 64-bit hashes (BLAKE2): the probability that
    among a million rows two that differ are taken for equal is 3e-8.
    """
    if not splits:
        raise Error("leakage takes splits by name: leakage(train=train, test=test).")
    read = {name: _read(table, columns, group, limit) for name, table in splits.items()}
    groups, between = [], []
    for a, b in combinations(splits, 2):
        groups.append(_shared(a, b, read[a].get("group"), read[b].get("group")))
        between.append(_equal_rows(a, b, read[a], read[b]))
    within = [_equal_rows(name, name, rows, rows) for name, rows in read.items()]
    compared = _compared(next(iter(splits.values())), columns)
    return Leakage(
        compared,
        tuple(found for found in groups if found.count),
        tuple(found for found in between if found.count),
        tuple(found for found in within if found.count),
    )


def _compared(table: Rows, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns by which rows are compared."""
    known = [name for name in table.take(np.zeros(1, np.int32)) if name != "id"]
    for name in columns:
        if name not in known:
            raise Error(f"There is no column {name!r}; the columns are {', '.join(known)}.")
    inputs = [name for name in INPUTS if name in known]
    return tuple(columns or inputs or [name for name in known if name != "y"] or known)


def _read(
    table: Rows, columns: Sequence[str], group: str, limit: int | None
) -> dict[str, np.ndarray]:
    """Hashes of the rows, of their labels `y` if there are any, and their groups."""
    compared = _compared(table, columns)
    if group:
        _compared(table, [group])
    rows = min(len(table), limit or len(table))
    parts: dict[str, list[np.ndarray]] = {"rows": [np.zeros(0, np.uint64)]}
    for start in range(0, rows, PART):
        part = table.take(np.arange(start, min(start + PART, rows), dtype=np.int32))
        parts["rows"].append(_hashes(part, compared))
        if "y" in part:
            parts.setdefault("y", []).append(_hashes(part, ["y"]))
        if group:
            parts.setdefault("group", []).append(part[group])
    return {name: np.concatenate(found) for name, found in parts.items()}


def _hashes(part: Mapping[str, np.ndarray], columns: Sequence[str]) -> np.ndarray:
    """A hash of each row over these columns; of sequences without their padding."""
    values = [_bytes(part[name], lengths_of(part, name)) for name in columns]
    digests = (hashlib.blake2b(b"".join(row), digest_size=8) for row in zip(*values, strict=True))
    return np.frombuffer(b"".join(digest.digest() for digest in digests), np.uint64)


def _bytes(column: np.ndarray, lengths: np.ndarray | None) -> list[bytes]:
    if lengths is None:
        return [row.tobytes() for row in column]
    return [row[:length].tobytes() for row, length in zip(column, lengths.tolist(), strict=True)]


def lengths_of(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """The lengths of the sequences (N, T, ...) in a column: `length` of x, `y_length` of y.

    Those of the edges of small graphs are where their padding of -1 begins.
    """
    edges = columns.get("edges")
    if name in ("edges", "edge_features") and edges is not None and edges.ndim == 3:
        return (edges[..., 0] >= 0).sum(1)
    lengths = columns.get("length" if name == "x" else f"{name}_length")
    return lengths if lengths is not None and columns[name].ndim > lengths.ndim == 1 else None


def _equal_rows(
    first: str, second: str, a: dict[str, np.ndarray], b: dict[str, np.ndarray]
) -> EqualRows:
    if not len(a["rows"]):
        return EqualRows(first, second, 0, len(b["rows"]), (), 0)
    known, earliest = np.unique(a["rows"], return_index=True)
    places = np.searchsorted(known, b["rows"]).clip(max=len(known) - 1)
    partners = earliest[places]
    equal = known[places] == b["rows"]
    if first == second:
        equal &= partners != np.arange(len(partners))
    rows, partners = np.flatnonzero(equal), partners[equal]
    labelled = "y" in a and "y" in b
    other = int((a["y"][partners] != b["y"][rows]).sum()) if labelled else 0
    pairs = zip(partners[:SHOWN].tolist(), rows[:SHOWN].tolist(), strict=True)
    return EqualRows(first, second, len(rows), len(b["rows"]), tuple(pairs), other)


def _shared(first: str, second: str, a: np.ndarray | None, b: np.ndarray | None) -> SharedGroups:
    """The groups that are in both splits."""
    if a is None or b is None:
        return SharedGroups(first, second, 0, ())
    values = np.intersect1d(a, b)
    return SharedGroups(first, second, len(values), tuple(values[:SHOWN].tolist()))


def _first(shown: Sequence[str], count: int) -> str:
    return ", ".join(shown) + (", ..." if count > len(shown) else "")
