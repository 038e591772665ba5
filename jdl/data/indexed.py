"""Datasets of anything with a length and rows by index: PyTorch, Hugging Face, Grain, lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.source import MEMORY_BYTES, check_column
from jdl.types import Bounds, Error

CHUNK = 4096  # rows that are read at a time

Row = dict[str, np.ndarray]


def indexed(
    source: Any,
    columns: Sequence[str] | Mapping[str, str] = (),
    decode: Callable[[Any], Any] | None = None,
    labels: Sequence[str] = (),
    stream: bool = False,
    fingerprint: str = "",
) -> Dataset:
    """A dataset of anything that has `len(source)` and `source[i]` (map-style).

    That is a PyTorch `Dataset`, a Hugging Face dataset, a data source or `MapDataset` of Grain, a
    list. A row is a dict, a tuple or one array; `decode` makes it of what the source has, such as
    the bytes of an ArrayRecord. `columns` names the parts of a tuple, by default x and y, or
    chooses those of a dict; {"image": "x", "label": "y"} also renames them. A source of up to 4 GiB
    is read once, into memory. Larger ones, and any with `stream`, are read row by row in threads;
    their `fingerprint` is computed over all rows unless you give one, such as a version. Raises
    `Error` with row and column for what is no number, rows of several shapes, and rows that differ
    when they are read again.
    """
    rows = IndexedRows(source, columns, decode, tuple(labels), fingerprint)
    count = _count(source)
    check_names(rows.read(np.zeros(1, int)))
    for row in sorted({0, count // 2, count - 1}):
        _check_repeats(rows, row)
    if stream or rows.nbytes > MEMORY_BYTES:
        return Dataset(rows, np.arange(count, dtype=np.int32)).streaming()
    starts = range(0, count, CHUNK)
    chunks = [rows.read(np.arange(n, min(n + CHUNK, count))) for n in starts]
    names = chunks[0]
    return arrays(labels, **{name: np.concatenate([c[name] for c in chunks]) for name in names})


def check_names(columns: Iterable[str]) -> None:
    """Raises `Error` for a column that has the name of something else."""
    if taken := sorted({"id", "labels", "mask"} & set(columns)):
        raise Error(
            f"No column can have the name {taken[0]}: rename it, y='labels' of a file, "
            "columns={'labels': 'y'} of rows."
        )


def _count(source: Any) -> int:
    try:
        count = len(source)
    except TypeError as error:
        raise Error(
            f"{type(source).__name__} has no length, so its rows cannot be read by index: give a "
            "map-style dataset, with len(source) and source[i], or write the stream to ArrayRecord."
        ) from error
    if not 0 < count < 2**31:
        raise Error(
            f"The source has {count} rows: it must have at least one, and end. Leave out a "
            "`repeat()`; jdl repeats the epochs."
        )
    return count


def _check_repeats(rows: IndexedRows, row: int) -> None:
    """Raises `Error` where a row that is read twice differs: an augmentation in the source."""
    once, again = (rows.read(np.asarray([row])) for _ in range(2))
    for name in once:
        if not np.array_equal(once[name], again[name], equal_nan=once[name].dtype.kind == "f"):
            raise Error(
                f"Column {name} of row {row} differs when it is read again, so a run could not be "
                "repeated: take the random augmentation out of the source, and give it to "
                "`dataset.shuffled(size, seed, augment)`."
            )


@dataclass(frozen=True, eq=False)
class IndexedRows:
    """A source (`jdl.data.source.Source`) of rows that are read from another one by index."""

    source: Any
    columns: Sequence[str] | Mapping[str, str]
    decode: Callable[[Any], Any] | None
    labels: tuple[str, ...]
    given_fingerprint: str

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, as a dataset has them."""
        columns = {}
        for name, values in self.read(rows).items():
            try:
                columns[name] = check_column(name, values)
            except Error as error:
                raise Error(f"Of the rows {', '.join(map(str, rows[:20]))} ...: {error}") from error
        return columns

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, as the source has them; `Error` for a row unlike the first."""
        items = self._items([int(row) for row in rows])
        read = [self._row(int(row), item) for row, item in zip(rows, items, strict=True)]
        for number, row in zip(rows, read, strict=True):
            for name, value in self._first.items():
                if name not in row or row[name].shape != value.shape:
                    found = f"has shape {row[name].shape}" if name in row else "is missing"
                    raise Error(
                        f"Column {name} of row {number} {found}, but in row 0 it has shape "
                        f"{value.shape}: bring all rows to one shape, by resizing, cropping or "
                        "padding."
                    )
        return {name: np.stack([row[name] for row in read]) for name in self._first}

    def _items(self, rows: list[int]) -> Sequence[Any]:
        """The rows as the source gives them; many at once where it can."""
        try:
            if hasattr(self.source, "__getitems__"):
                return self.source.__getitems__(rows)
            return [self.source[row] for row in rows]
        except Exception as error:
            raise Error(
                f"The source cannot read one of the rows {rows[0]} to {rows[-1]}: "
                f"{type(error).__name__}: {error}"
            ) from error

    @cached_property
    def _first(self) -> Row:
        return self._row(0, self._items([0])[0])

    def _row(self, number: int, item: Any) -> Row:
        """A row as arrays by column."""
        if self.decode:
            try:
                item = self.decode(item)
            except Exception as error:
                raise Error(
                    f"decode fails for row {number}: {type(error).__name__}: {error}"
                ) from error
        names = self.columns
        if isinstance(item, tuple | list):
            names = names or ("x", "y")[: len(item)]
            if len(names) != len(item):
                raise Error(
                    f"Row {number} is a tuple of {len(item)}, and columns names {len(names)}: "
                    "columns=('x', 'y', ...), one name for each part."
                )
            item = dict(zip(names, item, strict=True))
        elif not isinstance(item, Mapping):
            item = {next(iter(names), "x"): item}
        chosen = names or item
        missing = [name for name in chosen if name not in item]
        if missing:
            raise Error(f"Row {number} has no {missing[0]}, but {', '.join(map(str, item))}.")
        targets = dict(names) if isinstance(names, Mapping) else {name: name for name in chosen}
        return {targets[name]: _array(item[name], name, number) for name in chosen}

    @cached_property
    def nbytes(self) -> int:
        """The size of all rows in bytes, as a dataset has them."""
        return len(self) * sum(column.nbytes for column in self.take(np.zeros(1, int)).values())

    @property
    def bounds(self) -> Bounds:
        """Unknown: that would need all rows."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprint that was given, or of all rows."""
        if self.given_fingerprint:
            return hashlib.sha256(self.given_fingerprint.encode()).hexdigest()
        digest = hashlib.sha256()
        for start in range(0, len(self), CHUNK):
            columns = self.take(np.arange(start, min(start + CHUNK, len(self))))
            for name, column in sorted(columns.items()):
                digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
                digest.update(column.tobytes())
        return digest.hexdigest()


def _array(value: Any, name: str, row: int) -> np.ndarray:
    """A value as an array of numbers; tensors of PyTorch and TensorFlow have a method `numpy`."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype.kind not in "biuf":
        raise Error(
            f"Column {name} of row {row} is no number, but {value!r:.60}: leave the column out, "
            "columns=..., or make numbers of it, decode=..."
        )
    return array
