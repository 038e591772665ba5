"""Datasets: examples with named columns, in memory or streamed; made from arrays or digits."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from jdl.data.augment import Augmentation, BatchTransform, UnitRange, check_order, check_signature
from jdl.data.loader import DatasetLoader
from jdl.data.look import Look, look
from jdl.data.source import ArraySource, ReadsColumn, Source, WithColumns, check_column
from jdl.data.splits import By, fold_rows, named, random_rows, sampling, time_rows
from jdl.types import Array, Bounds, Error

DEVICE_BYTES = 2 << 30  # a dataset up to this size is kept on the device
PART = 4096  # rows that are read at a time, where one column is wanted


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset: examples (rows of a source) in a fixed order, and the transforms of its batches.

    `batches` makes a data loader for evaluation, in this order; `shuffled` makes one for training,
    with a new order in every epoch.
    """

    source: Source
    ids: np.ndarray  # int32: which rows of the source
    transforms: tuple[Augmentation, ...] = ()
    device_bytes: int = DEVICE_BYTES  # the largest size that is kept on the device

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        if not len(self):
            return f"{type(self).__name__}(0 rows)"
        columns = [
            f"{name} {column.dtype}{list(column.shape[1:]) or ''}"
            for name, column in self.take(np.zeros(1, np.int32)).items()
        ]
        return f"{type(self).__name__}({len(self):,} rows: {', '.join(columns)})"

    def __add__(self, other: Dataset) -> Self:
        """The concatenation of two datasets of one source: folds of a cross-validation, or splits.

        A row that is in both comes twice. Raises `Error` where source or transforms differ.
        """
        if not isinstance(other, Dataset):
            return NotImplemented
        a, b = self.source, other.source
        if a is not b and a.fingerprint != b.fingerprint:
            raise Error(
                "Datasets can be added only if they are parts of one source, such as the folds "
                "that `split` gives; these two come from different sources. Concatenate their "
                "columns instead: arrays(x=np.concatenate([a.columns['x'], ...]), ...)."
            )
        if self.transforms != other.transforms:
            raise Error(
                "Datasets can be added only if they have the same transforms: add them first, and "
                "call .map(...) on the sum."
            )
        ids = np.concatenate([self.ids, other.ids])
        return replace(self, ids=ids, device_bytes=min(self.device_bytes, other.device_bytes))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows of the dataset, and `id`, the rows' indices in the source."""
        ids = self.ids[rows]
        return {**self.source.take(ids), "id": ids}

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All columns as numpy arrays, in the dataset's order, before any transform."""
        return self.source.take(self.ids)

    def column(self, name: str) -> np.ndarray:
        """One column as a numpy array, in the dataset's order, before any transform.

        The rows are read in parts, so that the other columns need not fit into memory; a source
        that can read one column alone reads no other.
        """
        known = self.source.take(self.ids[:1])
        if name not in known:
            raise Error(f"There is no column {name!r}; the columns are {', '.join(known)}.")
        parts = [self.ids[n : n + PART] for n in range(0, len(self), PART)]
        if isinstance(self.source, ReadsColumn):
            read = [self.source.column(name, ids) for ids in parts]
        else:
            read = [self.source.take(ids)[name] for ids in parts]
        return np.concatenate([known[name][:0], *read])

    def select(self, rows: Any) -> Self:
        """The subset of these rows, by their indices in this dataset, in the given order."""
        return replace(self, ids=self.ids[rows])

    def with_columns(self, **columns: Any) -> Self:
        """The same rows with more columns, an entry for each row, in the dataset's order.

        A teacher's logits, say, or a model's predictions. Raises `Error` where a name is taken, the
        number of entries is another, or the dataset has no rows, or one more than once.
        """
        if not len(self):
            raise Error("The dataset has no rows, and no batch could have more columns of them.")
        added = ArraySource({name: check_column(name, x) for name, x in columns.items()})
        taken = sorted(set(columns) & {*self.take(np.zeros(1, np.int32)), "mask"})
        if taken:
            raise Error(f"The dataset has a column {taken[0]} already: give yours another name.")
        for name, column in added.columns.items():
            if len(column) != len(self):
                raise Error(
                    f"The column {name} has {len(column)} entries, but the dataset has {len(self)} "
                    "rows: give one entry for each row, in the dataset's order."
                )
        if len(np.unique(self.ids)) < len(self):
            raise Error(
                "The dataset has rows more than once, and a row has one entry: add the columns "
                "first, and select the rows afterwards."
            )
        places = np.full(len(self.source), -1, np.int32)
        places[self.ids] = np.arange(len(self), dtype=np.int32)
        return replace(self, source=WithColumns(self.source, added, places))

    def split(
        self, *fractions: float, seed: int = 0, stratify: By = None, group: By = None
    ) -> tuple[Self, ...]:
        """Disjoint random splits: split(0.9, 0.1) gives two, for training and validation.

        The assignment depends on `seed` alone; within a split rows keep their order. `stratify`, a
        column or an array of classes: each split has each class in the proportion of the whole.
        `group`, a column or an array: all rows of a group, a patient say, are in the same split.
        """
        by = named("stratify", stratify, self.column), named("group", group, self.column)
        splits = random_rows(len(self), fractions, seed, *by)
        return tuple(self.select(rows) for rows in splits)

    def split_by_time(self, *fractions: float, column: By) -> tuple[Self, ...]:
        """Splits by time, from the earliest rows to the latest; `column` has the time of each row.

        Rows of the same time are in the same split. Within a split rows keep their order.
        """
        splits = time_rows(len(self), fractions, named("column", column, self.column))
        return tuple(self.select(rows) for rows in splits)

    def folds(
        self, k: int, seed: int = 0, stratify: By = None, group: By = None
    ) -> tuple[tuple[Self, Self], ...]:
        """The k folds of a cross-validation, as pairs (train, valid), drawn like those of `split`.

        Each row is in the validation part of one fold, and in the training parts of all others.
        """
        by = named("stratify", stratify, self.column), named("group", group, self.column)
        folds = fold_rows(len(self), k, seed, *by)
        return tuple((self.select(train), self.select(valid)) for train, valid in folds)

    def map(self, *transforms: Augmentation) -> Self:
        """The same rows with these transforms in every batch, of training and of evaluation.

        A transform is a pure function (key, example) -> example, on the device. Data augmentation,
        for training only, is given to `shuffled` instead.
        """
        if any(isinstance(transform, BatchTransform) for transform in transforms):
            raise Error(
                "A transform of a whole batch, such as mixup, would mix the rows of the evaluation "
                "too: give it to `shuffled`, which is for training alone."
            )
        self._check_transforms((*self.transforms, *transforms))
        return replace(self, transforms=(*self.transforms, *transforms))

    def look(self) -> Look:
        """A first look at the rows: ranges, classes, lengths, duplicates; `print(data.look())`."""
        return look(self.labels, data=self)

    def streaming(self) -> Self:
        """The same dataset, streamed: prefetched by threads on the host, not kept on the device.

        The batches are the same, to the bit.
        """
        return replace(self, device_bytes=-1)

    def batches(self, size: int) -> DatasetLoader[Self]:
        """A data loader for evaluation: batches of `size` in order, each row exactly once an epoch.

        The last batch is padded and masked.
        """
        return DatasetLoader(self, self._check_size(size), None, self.transforms)

    def shuffled(
        self,
        size: int,
        seed: int,
        *augment: Augmentation,
        balance: By = None,
        weights: By = None,
    ) -> DatasetLoader[Self]:
        """A data loader for training: batches of `size`, shuffled and augmented.

        The order of every epoch is drawn from (seed, epoch), the data augmentation of every example
        from (seed, epoch, id). With `balance`, a column or an array of classes, an epoch has each
        class equally often (oversampling of rare classes, undersampling of others); with `weights`,
        a column or an array, each row in proportion to its weight. Rows then come several times or
        not at all, and an epoch is as long as without.
        """
        if self._check_size(size) > len(self):
            raise Error(
                f"A batch of {size} is larger than the dataset, which has {len(self)} examples: "
                "choose a smaller batch size."
            )
        self._check_transforms((*self.transforms, *augment))
        by = named("balance", balance, self.column), named("weights", weights, self.column)
        drawn = sampling(len(self), *by)
        return DatasetLoader(self, size, seed, (*self.transforms, *augment), sampling=drawn)

    def contiguous_batches(self, size: int) -> DatasetLoader[Self]:
        """A data loader for truncated backpropagation through time (Williams and Peng, 1990).

        Row b of a batch continues where row b of the batch before ended: the dataset is cut into
        `size` equal contiguous streams; the remainder is dropped. The column `start` (B,) is true
        in the first batch of an epoch, where states are reset. For models that carry their state,
        `RNN(stateful=True)`, over windows of one long sequence.
        """
        steps = len(self) // self._check_size(size)
        if "start" in self.take(np.zeros(1, np.int32)):
            raise Error(
                "contiguous_batches adds a column start, and the dataset has one already: rename "
                "yours."
            )
        if not steps:
            raise Error(
                f"{len(self)} examples cannot be cut into {size} streams: choose a smaller size."
            )
        rows = np.arange(size * steps).reshape(size, steps).T.ravel()
        return replace(self.select(rows).batches(size), start_column=True)

    def _check_transforms(self, transforms: Sequence[Augmentation]) -> None:
        for transform in transforms:
            check_signature(transform)
        check_order(transforms)
        if transforms and isinstance(transforms[0], UnitRange) and len(self):
            transforms[0].check(self.take(np.arange(min(len(self), 16)))["x"])

    def _check_size(self, size: int) -> int:
        if not isinstance(size, int | np.integer) or size < 1:
            raise Error(f"The batch size must be at least 1, and a whole number, not {size!r}.")
        if not len(self):
            raise Error("The dataset has no examples.")
        return size

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, where the source has them."""
        return self.source.labels

    @property
    def fits_on_device(self) -> bool:
        """Whether the columns are kept on the device; else they are streamed from the host."""
        return self.source.nbytes * len(self) // max(len(self.source), 1) <= self.device_bytes

    @cached_property
    def on_device(self) -> dict[str, Array]:
        """All columns and `id`, on the device."""
        columns = self.take(np.arange(len(self)))
        with jax.ensure_compile_time_eval():  # kept, also where they are first used in a trace
            return {name: jax.device_put(column) for name, column in columns.items()}

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column of the source, where known."""
        return self.source.bounds

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the source and of the rows' indices in it."""
        return hashlib.sha256(self.source.fingerprint.encode() + self.ids.tobytes()).hexdigest()


def arrays(labels: Sequence[str] = (), **columns: Any) -> Dataset:
    """A dataset of your own arrays, one row per example: `arrays(x=images, y=labels)`.

    Numbers become float32 or int32. Columns of bytes (uint8) of four or more axes, (N, H, W, C),
    are images, except y: batches have them as float32 from 0 to 1. Others are whole numbers; a
    warning says so of an x of three axes. `labels` are the names of the classes. The column
    `length` is reserved for the number of real time steps of a row.
    """
    if isinstance(labels, Mapping):
        raise Error("The columns are given by name: arrays(**columns) for a dict of arrays.")
    x = columns.get("x")
    if x is not None and getattr(x, "dtype", None) == np.uint8 and x.ndim == 3:
        warnings.warn(
            f"x has bytes of shape {x.shape}, which stay whole numbers from 0 to 255 here. If they "
            "are images, give them an axis of channels, x[..., None]: batches have these as "
            "float32 from 0 to 1. If they are none, give x.astype('int32').",
            stacklevel=2,
        )
    table = {name: check_column(name, column) for name, column in columns.items()}
    reserved = {"id", "mask"} & set(table)
    if not table or reserved:
        raise Error(
            "Name at least one column, and none of them id or mask, which jdl adds; given: "
            f"{list(table)}."
        )
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise Error(f"All columns must have the same number of rows, but they have {lengths}.")
    _check_length(table)
    source = ArraySource(table, tuple(labels))
    return Dataset(source, np.arange(len(source), dtype=np.int32))


def _check_length(table: Mapping[str, np.ndarray]) -> None:
    """Raises `Error` where the column `length` is not from 1 to the time steps of any column."""
    steps = max((column.shape[1] for column in table.values() if column.ndim > 1), default=0)
    length = table.get("length")
    if length is None or length.ndim != 1 or not steps or not len(length):
        return
    least, greatest = length.min(), length.max()
    if least < 1 or greatest > steps:
        row = int(np.argmax((length < 1) | (length > steps)))
        raise Error(
            f"The column length, the number of real time steps of each row, must be from 1 to "
            f"{steps}, but it is {length[row]} in row {row}: leave out rows without a step, and "
            "give those that were cut the length of what is left; a column that means something "
            "else needs another name."
        )


def episodes(count: int) -> DatasetLoader[Dataset]:
    """The data loader for reinforcement learning: a row for each of `count` parallel environments.

    Observations come from the environment, so a row has only the environment's index, in the column
    `episode`.
    """
    if count < 1:
        raise Error(f"episodes takes the number of parallel environments, at least 1, not {count}.")
    return arrays(episode=np.arange(count)).batches(count)
