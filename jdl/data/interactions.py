"""Interactions of users with items, for recommendation: what each user had, in its order."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Example
from jdl.data.dataset import Dataset, arrays
from jdl.data.padding import padded, padded_length
from jdl.data.text_files import read_rows
from jdl.types import Error, Key

START = "<start>"  # item 0: what a row begins with, and its padding
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class InteractionColumns:
    """The names of a table's columns of users, items and times."""

    user: str
    item: str
    time: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Interactions(Dataset):
    """A dataset of users and the items that each had; see `interactions`. `labels` are the items.

    `users` are the names of the users that the column `user` numbers.
    """

    users: tuple[str, ...] = ()
    names: InteractionColumns = field(default=InteractionColumns("user", "item", None))

    @property
    def joins_rows(self) -> bool:
        """Rows of a file are not read one by one: those of a user belong together."""
        return True

    @property
    def max_length(self) -> int:
        """The items of a row's x, the start and the padding included."""
        return self.source.take(np.zeros(1, np.int32))["x"].shape[1]

    @property
    def item_counts(self) -> np.ndarray:
        """How often each item is in the rows, in x or as y, by its number; the start is not."""
        columns = self.columns
        items = np.concatenate([columns["x"].ravel(), columns["y"]])
        return np.bincount(items[items > 0], minlength=len(self.labels))

    def encode(self, histories: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Other users' items, each list in its order, as the columns x and length.

        Items that are not among `labels` are left out, with a warning. Of a longer list than those
        of the dataset the last items are kept.
        """
        steps = self.max_length
        index = {item: n for n, item in enumerate(self.labels) if n}
        if unknown := sorted({item for row in histories for item in row} - index.keys()):
            warnings.warn(
                f"{len(unknown)} items are not in the training data, such as {unknown[0]!r}, and "
                "are left out.",
                stacklevel=2,
            )
        rows = [[index[item] for item in row if item in index] for row in histories]
        x, lengths = padded([_with_start(row, steps) for row in rows], steps)
        return {"x": x, "length": lengths}

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """Each user of a new table, and the columns x and length; None for another kind of file.

        Where all of them are users of the dataset there is the column `user`, too.
        """
        if path.suffix.lower() not in SUFFIXES:
            return None
        histories = _histories(path, self.names)
        columns = self.encode(list(histories.values()))
        known = {name: n for n, name in enumerate(self.users)}
        if histories.keys() <= known.keys():
            columns["user"] = np.asarray([known[name] for name in histories], np.int32)
        return list(histories), columns


def interactions(
    source: Any,
    user: str = "user",
    item: str = "item",
    time: str | None = None,
    max_length: int | None = None,
) -> tuple[Interactions, Interactions, Interactions]:
    """Users and the items that they had (implicit feedback): datasets (train, valid, test).

    `source` is a .csv, .tsv or .jsonl file, or columns by name (a dict, a data frame), with a row
    for each item that a user had: bought, watched, read. A user's items are in the order of the
    column `time`, numbers or ISO dates, or else of the rows; an item that comes again counts once.

    The split is leave-one-out: a user's last item is to be found in test, the one before in valid.
    Users of fewer than three items are in training alone. A row of any part is a user. Columns:
    `user`, its number; x (T,), its items before the one to be found: item 0, the start, then their
    numbers, padded with 0; `length`, the number of these, start included; y, the item to be found.
    Of a longer history than `max_length`, by default the longest, the last items are kept. `labels`
    are the items' names.
    """
    if max_length is not None and max_length < 2:
        raise Error(f"max_length is at least 2, the start and an item, not {max_length}.")
    names = InteractionColumns(user, item, time)
    histories = _histories(source, names)
    labels = (START, *sorted({name for row in histories.values() for name in row}))
    index = {name: n for n, name in enumerate(labels)}
    rows = [[index[name] for name in row] for row in histories.values()]
    if not any(len(row) > 2 for row in rows):
        raise Error(
            f"None of {len(rows)} users has three different items: one to learn from, one to "
            "validate and one to test."
        )
    steps = padded_length(max(map(len, rows)), max_length)
    places = [(n, len(row) - 3 if len(row) > 2 else len(row) - 1) for n, row in enumerate(rows)]
    held_out = [(n, len(row) - 2) for n, row in enumerate(rows) if len(row) > 2]
    last = [(n, place + 1) for n, place in held_out]
    train, valid, test = (
        _dataset(rows, part, steps, labels, tuple(histories), names)
        for part in (places, held_out, last)
    )
    return train, valid, test


def shuffle_items(key: Key, example: Example) -> Example:
    """Data augmentation: a user's items, x and y, in a random order; for `shuffled(..., it)`.

    For data whose order says little. A sequential model then learns which items go together, and
    each of a user's items is sometimes the one to be found.
    """
    x, length = example["x"], example["length"]
    steps = jnp.arange(len(x))
    items = jnp.append(x[1:], 0).at[length - 1].set(example["y"])
    order = jnp.argsort(jnp.where(steps < length, jax.random.uniform(key, x.shape), 2.0))
    items = items[order]
    before = jnp.where(steps < length, jnp.roll(items, 1), 0).at[0].set(0)
    return {**example, "x": before, "y": items[length - 1]}


def _dataset(
    rows: Sequence[Sequence[int]],
    places: Sequence[tuple[int, int]],
    steps: int,
    labels: Sequence[str],
    users: tuple[str, ...],
    names: InteractionColumns,
) -> Interactions:
    """A row for each pair of `places`: a user, and the place of the item to be found."""
    x, lengths = padded([_with_start(rows[n][:place], steps) for n, place in places], steps)
    columns = {
        "user": np.asarray([n for n, _ in places]),
        "x": x,
        "length": lengths,
        "y": np.asarray([rows[n][place] for n, place in places]),
    }
    plain = arrays(labels, **columns)
    return Interactions(plain.source, plain.ids, users=users, names=names)


def _with_start(items: Sequence[int], steps: int) -> list[int]:
    """The start, and the last items that fit into the steps after it."""
    return [0, *items[max(0, len(items) - steps + 1) :]]


def _histories(source: Any, names: InteractionColumns) -> dict[str, list[str]]:
    """The different items of each user, in their order."""
    wanted = (names.user, names.item, *([names.time] if names.time else []))
    if not isinstance(source, str | Path):
        source = _as_texts(source, wanted)
    rows = read_rows(source, wanted[:2], names.time)
    pairs: Iterable[tuple[str, ...]] = rows.texts
    if names.time:
        times = [_time(*at, names.time) for at in zip(rows.labels, rows.places, strict=True)]
        if len({_is_number(value) for value in rows.labels}) > 1:
            raise Error(
                f"The column {names.time} has numbers beside dates, which cannot be put in order: "
                "write all times in one way."
            )
        pairs = [rows.texts[n] for n in sorted(range(len(times)), key=times.__getitem__)]
    histories: dict[str, dict[str, None]] = {user: {} for user, _ in rows.texts}
    for user, item in pairs:
        histories[user].setdefault(item)
    return {user: list(items) for user, items in histories.items()}


def _as_texts(columns: Any, wanted: Sequence[str]) -> Mapping[str, list[str]]:
    """The wanted columns with their values as texts: users, items and times may be numbers."""
    try:
        return {name: [str(value) for value in columns[name]] for name in wanted}
    except (KeyError, TypeError, IndexError) as error:
        raise Error(
            f"The interactions must be a path, or columns by name that have {', '.join(wanted)}; "
            f"{type(columns).__name__} does not: {error!r}."
        ) from error


def _time(value: Any, place: str, name: str) -> float:
    """A time as a number: an ISO date as seconds, in UTC where it has no zone."""
    if _is_number(value):
        number = float(value)
    else:
        try:
            date = datetime.fromisoformat(str(value))
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            number = float("nan")
    if not isfinite(number):
        raise Error(
            f"{place} has {value!r:.40} in the column {name}, which is neither a number nor an ISO "
            "date, such as 2026-11-26 or 2026-11-26T07:00:00: correct it, or leave the row out."
        )
    return number


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
