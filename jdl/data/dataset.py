"""Tables of examples: columns of equal length, in memory or read record by record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np

from jdl.data.augment import Transform
from jdl.data.loader import DatasetLoader
from jdl.data.order import shuffled
from jdl.types import Array, Bounds, Error

RESIDENT_BYTES = 2 << 30  # a table up to this size is kept on the device


class Source(Protocol):
    """Where examples come from: random access by row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, each (len(rows), ...)."""

    @property
    def nbytes(self) -> int:
        """The bytes of all of the columns."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; empty where they have none."""

    @property
    def bounds(self) -> Bounds:
        """The least and greatest value of each column, where known."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of a source, in a fixed order, with the transforms that every batch of them goes through.

    `batches` gives them in order, for evaluation; `shuffled` anew in every epoch, for training.
    """

    source: Source
    ids: np.ndarray  # int32: the rows of the source that are here
    transforms: tuple[Transform, ...] = ()
    resident_bytes: int = RESIDENT_BYTES

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows of the table, and `id`, their rows in the source."""
        ids = self.ids[rows]
        return {**self.source.take(ids), "id": ids}

    def split(self, *fractions: float, seed: int = 0) -> tuple[Dataset, ...]:
        """Parts without an example in common, chosen at random by `seed`: split(0.9, 0.1) gives two."""
        if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise Error(
                f"split takes fractions above 0 that sum to 1 at most, and not {fractions}."
            )
        ends = [round(len(self) * sum(fractions[: n + 1])) for n in range(len(fractions))]
        order = shuffled(len(self), seed, name="split")
        parts = [np.sort(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        return tuple(replace(self, ids=self.ids[rows]) for rows in parts)

    def map(self, *transforms: Transform) -> Dataset:
        """The same examples, every batch of which goes through these transforms, in training and evaluation."""
        return replace(self, transforms=(*self.transforms, *transforms))

    def streamed(self) -> Dataset:
        """The same examples, never kept on the device: batches are gathered on the host, ahead of their use."""
        return replace(self, resident_bytes=-1)

    def batches(self, size: int) -> DatasetLoader:
        """Batches of `size` in the table's order, the last one padded and masked: each example exactly once."""
        return DatasetLoader(self, self._checked(size), None, self.transforms)

    def shuffled(self, size: int, seed: int, *augment: Transform) -> DatasetLoader:
        """Batches of `size` in an order drawn anew for every epoch from (seed, epoch), augmented by example."""
        if self._checked(size) > len(self):
            raise Error(
                f"A batch of {size} is larger than the dataset, which has {len(self)} examples: take fewer."
            )
        return DatasetLoader(self, size, seed, (*self.transforms, *augment))

    def streams(self, size: int) -> DatasetLoader:
        """Batches of `size` rows each of which goes on, from batch to batch, where it ended in the batch before.

        The table is cut into `size` equal stretches, whose rests are left out; the column `start` (B,) is true in
        the first batch of an epoch. For stateful models, `RNN(stateful=True)`, over windows of one long sequence.
        """
        steps = len(self) // self._checked(size)
        if not steps:
            raise Error(f"{len(self)} examples cannot be cut into {size} streams: take fewer rows.")
        rows = np.arange(size * steps).reshape(size, steps).T.ravel()
        first = self.ids[rows[:size]]

        def started(key: Array, example: dict[str, Array]) -> dict[str, Array]:
            return {**example, "start": (example["id"] == first).any()}

        return replace(self, ids=self.ids[rows]).map(started).batches(size)

    def _checked(self, size: int) -> int:
        if size < 1:
            raise Error(
                f"A batch has at least 1 row, and {size} is not that: set batch to 1 or more."
            )
        if not len(self):
            raise Error("The dataset has no examples.")
        return size

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, as far as the source knows them."""
        return self.source.labels

    @property
    def resident(self) -> bool:
        """Whether the columns are kept on the device."""
        return self.source.nbytes * len(self) // max(len(self.source), 1) <= self.resident_bytes

    @cached_property
    def on_device(self) -> dict[str, Array]:
        """All of the columns, on the device."""
        return {
            name: jax.device_put(column) for name, column in self.take(np.arange(len(self))).items()
        }

    @property
    def bounds(self) -> Bounds:
        """The least and greatest value of each column of the source, where known."""
        return self.source.bounds

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the source and of which of its rows are here."""
        return hashlib.sha256(self.source.fingerprint.encode() + self.ids.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Columns:
    """A source in memory."""

    columns: Mapping[str, np.ndarray]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""
        return {name: column[rows] for name, column in self.columns.items()}

    @property
    def nbytes(self) -> int:
        """The bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    @cached_property
    def bounds(self) -> Bounds:
        """The least and greatest value of each column."""
        return {
            name: (column.min().item(), column.max().item())
            for name, column in self.columns.items()
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the columns' names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, column in sorted(self.columns.items()):
            digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


def arrays(labels: Sequence[str] = (), **columns: Any) -> Dataset:
    """Your own arrays as examples: `arrays(x=images, y=labels)`, one row an example, in every column alike.

    Numbers become float32 or int32. Images may be bytes, (N, H, W, C): batches give them as float32 from 0 to 1.
    """
    table = {name: _column(name, column) for name, column in columns.items()}
    reserved = {"id", "mask"} & set(table)
    if not table or reserved:
        raise Error(
            f"Name at least one column, and none of them id or mask, which jdl adds; given: {list(table)}."
        )
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise Error(f"The columns must have equally many rows, and they have {lengths}.")
    source = Columns(table, tuple(labels))
    return Dataset(source, np.arange(len(source), dtype=np.int32))


def episodes(count: int) -> DatasetLoader:
    """For reinforcement learning: batches of `count` rows, one for each episode that is played at once."""
    if count < 1:
        raise Error(f"episodes is how many are played at once, at least 1, and {count} is not.")
    return arrays(episode=np.arange(count)).batches(count)


def digits() -> tuple[Dataset, Dataset]:
    """The 1,797 handwritten digits of scikit-learn, x (8, 8, 1) from 0 to 1 and y from 0 to 9: (train, test).

    80% to train and 20% to test, drawn once and for all. They are UCI's optdigits test set, by 13 writers
    (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import (
        load_digits,
    )  # a second of import that other sources need not wait for

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    train, test = arrays(labels=[str(n) for n in range(10)], x=images, y=bunch.target).split(
        0.8, 0.2, seed=0
    )
    return train, test


def _column(name: str, values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray | jax.Array):
        values = [np.asarray(value) for value in values]
        odd = next((n for n, value in enumerate(values) if value.shape != values[0].shape), None)
        if odd is not None:
            raise Error(
                f"The examples of column {name} differ in size: number 0 is {values[0].shape} and number {odd} is "
                f"{values[odd].shape}. Bring them to one size first, by resizing, cropping or padding."
            )
    column = np.asarray(values)
    if column.dtype.kind not in "biuf" or not column.ndim:
        raise Error(
            f"Column {name} must hold numbers, one row an example; it is {column.dtype} of {column.shape}."
        )
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row = np.argwhere(~np.isfinite(column))[0][0]
        raise Error(
            f"Column {name} has a NaN or infinite value, first in row {row}: mend or drop such rows."
        )
    if column.dtype.kind == "f":
        return column.astype(np.float32, copy=False)
    if column.dtype == np.uint8 and column.ndim > 1:
        return column  # images
    if column.size and not -(2**31) <= int(column.min()) <= int(column.max()) < 2**31:
        raise Error(
            f"Column {name} has whole numbers from {column.min()} to {column.max()}, more than 32 bits hold."
        )
    return column.astype(np.int32, copy=False)
