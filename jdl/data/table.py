"""Tables: rows of named columns, split into datasets that are encoded by their training rows."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from jdl.data.column_store import in_memory
from jdl.data.columns import MISSING, Column, Decoding, Kind, RowSource, decode, place_row
from jdl.data.csv_file import CsvFile
from jdl.data.dataset import Dataset
from jdl.data.encoding import Encoding, fit_encoding, mean_std, sort_labels
from jdl.data.splits import By, fold_rows, named, random_rows, time_rows
from jdl.data.table_rows import new_source
from jdl.types import Bounds, Error


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the columns of a table are, and how they are encoded: of `csv`, `parquet`, `frame`."""

    target: str | Sequence[str] | None = None  # the column y; several columns of numbers: (N, K)
    weight: str | None = None  # a column of numbers from 0 on, which becomes the column `weight`
    drop: str | Sequence[str] = ()  # columns to leave out
    categorical: str | Sequence[str] = ()  # of categories, even where they look like numbers
    numeric: str | Sequence[str] = ()  # columns of numbers: any other value is an error
    one_hot: bool = False  # categories as columns of x, instead of codes for an embedding
    missing: str | Sequence[str] = ()  # texts that stand for a missing value, besides `MISSING`
    default_missing: bool = True  # False: of `MISSING` only the empty text; NA is Namibia
    max_categories: int = 10_000  # the most different values of a column of categories
    standardize_target: bool = False  # numbers as (y - mean) / std of the training rows
    drop_missing_target: bool = False  # leaves out rows without a target, which else raise `Error`

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns."""
        return self.texts("target")

    def texts(self, option: str) -> tuple[str, ...]:
        """The texts of an option that takes one or several, as a tuple."""
        given = getattr(self, option)
        if given is None or isinstance(given, str):
            return () if given is None else (given,)
        if not isinstance(given, Collection) or not all(isinstance(text, str) for text in given):
            raise Error(f"{option} takes a text or several, not {given!r}.")
        return tuple(given)

    def decoding(self, decimal: str = ".") -> Decoding:
        """How the values are understood."""
        kinds: dict[str, Kind] = dict.fromkeys(self.texts("categorical"), "category")
        numbers = self.texts("numeric") + self.texts("weight")
        kinds |= dict.fromkeys(numbers, "number")
        missing = (*(MISSING if self.default_missing else ("",)), *self.texts("missing"))
        return Decoding(kinds, missing, decimal, self.max_categories, self.texts("drop"))


def read_options(given: Mapping[str, Any], function: str, own: Sequence[str] = ()) -> TableOptions:
    """The options that were given to a function; `Error` for one that it does not have."""
    names = [*own, *(field.name for field in fields(TableOptions))]
    for name in given:
        if name not in names:
            hint = _nearest(name, names)
            raise Error(f"{function} has no option {name!r}.{hint} It has {', '.join(names)}.")
    return TableOptions(**given)


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read: nothing is fitted yet. `split` and `folds` make datasets of it.

    Every dataset is encoded with the statistics of the training rows alone; see `Encoding`.
    """

    columns: Mapping[str, Column]
    options: TableOptions
    decoding: Decoding
    sources: tuple[RowSource, ...]  # the files or the frame
    source_rows: tuple[int, ...]  # the number of rows of each
    rows: np.ndarray  # int32: those with a target

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        """The values of a column, (N,): numbers, NaN where missing, or texts, "" where missing."""
        column = self.columns[self._check_name(name)]
        if column.kind != "category":
            return column.data[self.rows]
        return np.asarray([*column.values, ""])[column.data[self.rows]]

    def split(
        self, *fractions: float, seed: int = 0, stratify: By = None, group: By = None
    ) -> tuple[TableDataset, ...]:
        """Disjoint random splits, such as split(0.7, 0.15, 0.15), encoded by the first.

        The assignment depends on `seed` alone. `stratify` and `group`, a column of the table or an
        array, are those of `Dataset.split`.
        """
        by = named("stratify", stratify, self._present), named("group", group, self._present)
        return self.datasets(*random_rows(len(self), fractions, seed, *by))

    def split_by_time(self, *fractions: float, column: By) -> tuple[TableDataset, ...]:
        """Splits by time, from the earliest rows to the latest, encoded by the earliest."""
        time = named("column", column, self._present)
        return self.datasets(*time_rows(len(self), fractions, time))

    def split_by_file(self) -> tuple[TableDataset, ...]:
        """A dataset for each file, in their order, encoded by the first."""
        ends = np.searchsorted(self.rows, np.cumsum(self.source_rows)[:-1])
        return self.datasets(*np.split(np.arange(len(self)), ends))

    def folds(
        self, k: int, seed: int = 0, stratify: By = None, group: By = None
    ) -> tuple[tuple[TableDataset, TableDataset], ...]:
        """k-fold cross-validation: k pairs (train, valid), each encoded by its own training rows.

        The k validation parts add up to the table; they are drawn like those of `split`.
        """
        by = named("stratify", stratify, self._present), named("group", group, self._present)
        folds = [self.datasets(*rows) for rows in fold_rows(len(self), k, seed, *by)]
        return tuple((train, valid) for train, valid in folds)

    def datasets(self, *parts: np.ndarray) -> tuple[TableDataset, ...]:
        """Datasets of these rows each, encoded by the first: for splits of your own."""
        if not parts or not all(map(len, parts)):
            raise Error(f"Every part needs rows; given: {', '.join(str(len(p)) for p in parts)}.")
        ids = [self.rows[part] for part in parts]
        encoding = fit_encoding(self.features, ids[0], self.options.one_hot)
        encoding = replace(encoding, targets=self.options.targets, labels=self._labels)
        if self.options.standardize_target:
            fitted = [mean_std(self.columns[name].data[ids[0]]) for name in self.options.targets]
            mean, std = zip(*fitted, strict=True)
            encoding = replace(encoding, target_mean=mean, target_std=std)
        source = TableSource(self, encoding)
        return tuple(TableDataset(source, part) for part in ids)

    def batches(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `Error`: a table has batches when it has been split."""
        raise Error(
            "The columns of a table are encoded by its training rows, so it has no batches before "
            "it is split: train, test = table.split(0.8, 0.2), or (train,) = table.split(1.0), and "
            "then train.shuffled(batch_size, seed)."
        )

    shuffled = batches

    @cached_property
    def features(self) -> dict[str, Column]:
        """The columns that the model reads: all but target and weight."""
        others = (*self.options.targets, self.options.weight)
        return {name: column for name, column in self.columns.items() if name not in others}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the columns: their names, kinds and values."""
        digest = hashlib.sha256()
        for name, column in self.columns.items():
            digest.update(json.dumps([name, column.kind, column.values]).encode())
            digest.update(np.ascontiguousarray(column.data).data)
        return digest.hexdigest()

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        """The classes of the target: of all rows, so that every fold has the same."""
        if len(self.options.targets) != 1:
            return ()
        target = self.columns[self.options.targets[0]]
        return ("false", "true") if target.kind == "bool" else sort_labels(target.values)

    def _present(self, name: str) -> np.ndarray:
        """The values of a column by which rows are split; `Error` where one is missing."""
        missing = self.columns[self._check_name(name)].missing[self.rows]
        if missing.any():
            place = place_row(self.sources, self.source_rows, int(self.rows[missing.argmax()]))
            raise Error(
                f"Column {name} is missing in {place}, so that row has no class, group or time: "
                f"correct it, or give an array, such as table.column({name!r}) with a value of "
                "yours for missing ones."
            )
        return self.column(name)

    def _check_name(self, name: str) -> str:
        if name not in self.columns:
            raise unknown_column(name, list(self.columns), "The table")
        return name


@dataclass(frozen=True, eq=False)
class TableSource:
    """A source of encoded rows, which are encoded when they are taken.

    Columns: x (F,), `codes` (C,), y and `weight`; see `Encoding`. y is int32 for classes and whole
    numbers, and else float32.
    """

    table: Table
    encoding: Encoding

    def __len__(self) -> int:
        return sum(self.table.source_rows)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""
        columns = self.table.columns
        numbers = {c.name: columns[c.name].data[rows] for c in self.encoding.numbers}
        codes = np.empty((len(rows), len(self._lookups)), np.int32)
        for n, (name, lookup) in enumerate(self._lookups.items()):
            codes[:, n] = lookup[columns[name].data[rows]]
        taken = self.encoding.encode_arrays(numbers, codes)
        if self.encoding.targets:
            taken["y"] = self._targets(rows)
        if weight := self.table.options.weight:
            taken["weight"] = columns[weight].data[rows].astype(np.float32)
        return taken

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        encoding = self.encoding
        targets = [self.table.columns[name].data[rows] for name in encoding.targets]
        if self._label_codes is not None:
            return self._label_codes[targets[0]]
        y = np.stack(targets, -1)
        if encoding.target_std:
            y = (y - np.asarray(encoding.target_mean)) / np.asarray(encoding.target_std)
        whole = self._whole and not encoding.target_std
        return (y[:, 0] if len(targets) == 1 else y).astype(np.int32 if whole else np.float32)

    @cached_property
    def _lookups(self) -> dict[str, np.ndarray]:
        """By column, the code of each of its values."""
        columns = self.table.columns
        return {c.name: c.lookup(columns[c.name].values) for c in self.encoding.categories}

    @cached_property
    def _label_codes(self) -> np.ndarray | None:
        """The class of each category of the target; None for numbers and truth values."""
        places = {label: n for n, label in enumerate(self.encoding.labels)}
        values = self.table.columns[self.encoding.targets[0]].values
        if not values:
            return None
        return np.asarray([places[value] for value in values], np.int32)

    @cached_property
    def _whole(self) -> bool:
        """Whether all targets are whole numbers, such as classes or counts."""
        rows = self.table.rows
        return all(
            (np.abs(data[rows]) < 2**31).all() and (data[rows] == np.rint(data[rows])).all()
            for data in (self.table.columns[name].data for name in self.encoding.targets)
        )

    @property
    def nbytes(self) -> int:
        """The size of all encoded columns in bytes."""
        row = self.take(self.table.rows[:1])
        return len(self) * sum(column.nbytes for column in row.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; empty for regression."""
        return self.encoding.labels

    @cached_property
    def bounds(self) -> Bounds:
        """The smallest and largest code and target."""
        bounds: dict[str, tuple[float, float]] = {}
        if self.encoding.sizes:
            bounds["codes"] = (0, max(self.encoding.sizes) - 1)
        if self.encoding.targets:
            y = self._targets(self.table.rows)
            bounds["y"] = (y.min().item(), y.max().item())
        return bounds

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the table and of the encoding."""
        return hashlib.sha256(f"{self.table.fingerprint} {self.encoding}".encode()).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class TableDataset(Dataset):
    """A dataset of a table's rows, encoded with the statistics of the training rows."""

    source: TableSource

    @property
    def encoding(self) -> Encoding:
        """How the columns are encoded: names, categories, means, ...; see `Encoding`."""
        return self.source.encoding

    def encode(self, new: Any) -> dict[str, np.ndarray]:
        """x, and codes if there are any, of new rows: a data frame, or a CSV or Parquet file.

        The columns are read as those of the table were; columns that it did not have, such as
        targets, are not read.
        """
        return self._encode(new_source(new, self.source.table.sources[0]))

    def read_file(self, path: Any) -> tuple[list[str], dict[str, np.ndarray]]:
        """A name for each row of a new file, by its line in a CSV file, and its columns."""
        source = new_source(path, self.source.table.sources[0])
        columns = self._encode(source)
        if isinstance(source, CsvFile):
            return [f"{path}:{line}" for line in source.lines()], columns
        return [f"{path}[{row}]" for row in range(len(columns["x"]))], columns

    def _encode(self, source: RowSource) -> dict[str, np.ndarray]:
        table = self.source.table
        names = self.encoding.names
        kinds = {name: table.columns[name].kind for name in names}
        decoding = replace(table.decoding, kinds=kinds, only=names, max_categories=2**31)
        if isinstance(source, CsvFile):
            source.check()
        columns, _ = in_memory(lambda writer: decode([source], decoding, writer))
        return self.encoding.encode(columns)


def unknown_column(name: str, names: Sequence[str], where: str) -> Error:
    """The error for a column that is not there, with the nearest name."""
    hint = _nearest(name, names)
    return Error(f"{where} has no column {name!r}.{hint} It has {', '.join(map(repr, names))}.")


def _nearest(name: str, names: Sequence[str]) -> str:
    """A question after the nearest name, if any is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
