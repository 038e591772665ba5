"""Tables of your own: CSV and Parquet files, and data frames of pandas or Polars, as datasets."""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jdl.data.column_store import in_cache, in_memory
from jdl.data.columns import (
    MISSING,
    Column,
    DecodedTable,
    Decoding,
    Kind,
    RowSource,
    decode,
    place_row,
)
from jdl.data.csv_file import CsvFile
from jdl.data.dataset import Dataset
from jdl.data.encoding import Encoding, fit_encoding, sort_labels
from jdl.data.order import permutation, split_rows
from jdl.data.table_rows import FrameRows, ParquetFile, require_pyarrow
from jdl.types import Bounds, Error

FORMAT = 1  # of decoded tables in the cache; increased when they are decoded otherwise


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the columns of a table are, and how they are encoded: of `csv`, `parquet`, `frame`."""

    target: str | Sequence[str] | None = None  # the column y; several columns of numbers: (N, K)
    weight: str | None = None  # a column of numbers from 0 on, which becomes the column `weight`
    drop: Sequence[str] = ()  # columns to leave out
    categorical: Sequence[str] = ()  # columns of categories, even where they look like numbers
    numeric: Sequence[str] = ()  # columns of numbers: any other value is an error
    one_hot: bool = False  # categories as columns of x, instead of codes for an embedding
    missing: Sequence[str] = ()  # texts that stand for a missing value, besides `MISSING`
    max_categories: int = 10_000  # the most different values of a column of categories
    standardize_target: bool = False  # numbers as (y - mean) / std of the training rows
    drop_missing_target: bool = False  # leaves out rows without a target, which else raise `Error`

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    def decoding(self, decimal: str = ".") -> Decoding:
        """How the values are understood."""
        kinds: dict[str, Kind] = dict.fromkeys(self.categorical, "category")
        kinds |= dict.fromkeys(self.numeric, "number")
        return Decoding(
            kinds, (*MISSING, *self.missing), decimal, self.max_categories, tuple(self.drop)
        )


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

    def split(self, *fractions: float, seed: int = 0) -> tuple[TableDataset, ...]:
        """Disjoint random splits, such as split(0.7, 0.15, 0.15), encoded by the first.

        The assignment depends on `seed` alone, as that of `Dataset.split`.
        """
        if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise Error(f"split takes fractions above 0 that sum to 1 at most, not {fractions}.")
        return self.datasets(*split_rows(len(self), fractions, seed, name="split"))

    def split_by_file(self) -> tuple[TableDataset, ...]:
        """A dataset for each file, in their order, encoded by the first."""
        ends = np.searchsorted(self.rows, np.cumsum(self.source_rows)[:-1])
        return self.datasets(*np.split(np.arange(len(self)), ends))

    def folds(self, k: int, seed: int = 0) -> Iterator[tuple[TableDataset, TableDataset]]:
        """k-fold cross-validation: k pairs (train, valid), each encoded by its own training rows.

        The k validation parts add up to the table.
        """
        if not 2 <= k <= len(self):
            raise Error(f"folds takes a number from 2 to the {len(self)} rows, not {k}.")
        parts = np.array_split(permutation(len(self), seed, name="folds"), k)
        for n, valid in enumerate(parts):
            train = np.concatenate([part for m, part in enumerate(parts) if m != n])
            train_data, valid_data = self.datasets(np.sort(train), np.sort(valid))
            yield train_data, valid_data

    def datasets(self, *parts: np.ndarray) -> tuple[TableDataset, ...]:
        """Datasets of these rows each, encoded by the first: for splits of your own."""
        if not parts or not all(map(len, parts)):
            raise Error(f"Every part needs rows; given: {', '.join(str(len(p)) for p in parts)}.")
        ids = [self.rows[part] for part in parts]
        encoding = fit_encoding(self.features, ids[0], self.options.one_hot)
        encoding = replace(encoding, targets=self.options.targets, labels=self._labels)
        if self.options.standardize_target:
            targets = [self.columns[name].data[ids[0]] for name in self.options.targets]
            mean, std = (tuple(float(f(y)) for y in targets) for f in (np.mean, np.std))
            encoding = replace(encoding, target_mean=mean, target_std=std)
        source = TableSource(self, encoding)
        return tuple(TableDataset(source, part) for part in ids)

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

    def _check_name(self, name: str) -> str:
        if name not in self.columns:
            raise _unknown_column(name, list(self.columns), "The table")
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


@dataclass(frozen=True, eq=False)
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
        return self.encoding.encode(self._read(new))

    def _read(self, new: Any) -> dict[str, Column]:
        table = self.source.table
        names = self.encoding.names
        kinds = {name: table.columns[name].kind for name in names}
        decoding = replace(table.decoding, kinds=kinds, only=names, max_categories=2**31)
        source = _new_source(new, table.sources[0])
        if isinstance(source, CsvFile):
            source.check()
        columns, _ = in_memory(lambda writer: decode([source], decoding, writer))
        return columns


def _new_source(new: Any, old: RowSource) -> RowSource:
    """New rows, as a source that is read as the old one was."""
    if not isinstance(new, str | Path):
        return FrameRows(new)
    if Path(new).suffix == ".parquet":
        return ParquetFile(Path(new))
    return replace(old if isinstance(old, CsvFile) else CsvFile(Path(new)), path=Path(new))


def csv(
    *paths: Path | str,
    delimiter: str = ",",
    decimal: str = ".",
    encoding: str = "utf-8",
    on_bad: Literal["raise", "skip"] = "raise",
    **options: Any,
) -> Table:
    """A table from a CSV file, or from several with the same columns, one after the other.

    `options` are those of `TableOptions`: target, weight, drop, categorical, numeric, one_hot,
    missing, max_categories, standardize_target, drop_missing_target. The first line of a file has the columns' names.
    Files are decoded once, into jdl's cache; files of more than memory are read from there as a
    batch needs them. `on_bad="skip"` leaves out lines with a wrong number of fields, with a
    warning that counts them and lists the first. Any other fault raises `Error`, with file, line
    and column.
    """
    if on_bad not in ("raise", "skip"):
        raise Error(f"on_bad is 'raise' or 'skip', not {on_bad!r}.")
    require_pyarrow()
    known = TableOptions(**options)
    decoding = known.decoding(decimal)
    files = [
        CsvFile(Path(path), delimiter, encoding, decoding.missing, on_bad == "skip")
        for path in _check_paths(paths)
    ]
    table = _read_files(files, known, decoding, f"{delimiter} {encoding} {on_bad}")
    if on_bad == "skip":
        for file in files:
            if notice := file.left_out():
                warnings.warn(notice, stacklevel=2)
    return table


def parquet(*paths: Path | str, **options: Any) -> Table:
    """A table from a Parquet file, or from several with the same columns, one after the other.

    `options` are those of `TableOptions`, as for `csv`. Files are decoded once, row group by row
    group, into jdl's cache.
    """
    require_pyarrow()
    known = TableOptions(**options)
    files = [ParquetFile(Path(path)) for path in _check_paths(paths)]
    return _read_files(files, known, known.decoding(), "parquet")


def frame(data: Any, **options: Any) -> Table:
    """A table from a data frame of pandas or Polars, an Arrow table, or a dict of columns.

    `options` are those of `TableOptions`, as for `csv`. The index of a pandas frame is not read.
    """
    require_pyarrow()
    known = TableOptions(**options)
    rows = FrameRows(data)
    _check_options(known, rows)
    decoding = known.decoding()
    columns, decoded = in_memory(lambda writer: decode([rows], decoding, writer))
    return _make_table(columns, known, decoding, [rows], decoded)


def _check_paths(paths: Sequence[Path | str]) -> Sequence[Path | str]:
    if not paths:
        raise Error("Name at least one file; a folder without files gives none.")
    return paths


def _read_files(
    files: Sequence[CsvFile | ParquetFile],
    options: TableOptions,
    decoding: Decoding,
    dialect: str,
) -> Table:
    """The table of these files, from the cache, or decoded into it."""
    _check_options(options, files[0])
    sums = [file.check() for file in files]
    key = hashlib.sha256(repr((FORMAT, sums, dialect, decoding)).encode()).hexdigest()
    columns, decoded = in_cache(key, lambda writer: decode(files, decoding, writer))
    return _make_table(columns, options, decoding, files, decoded)


def _check_options(options: TableOptions, source: RowSource) -> None:
    """Raises `Error` where options name columns that the source does not have."""
    weight = (options.weight,) if options.weight else ()
    kept = (*options.targets, *weight, *options.categorical, *options.numeric)
    for name in (*kept, *options.drop):
        if name not in source.names:
            raise _unknown_column(name, source.names, source.name)
    if both := set(kept) & set(options.drop):
        raise Error(f"Column {min(both)} is in drop, and named by another option too.")
    if both := set(options.categorical) & set(options.numeric):
        raise Error(f"Column {min(both)} is in categorical and in numeric: choose one.")


def _unknown_column(name: str, names: Sequence[str], where: str) -> Error:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Error(f"{where} has no column {name!r}.{hint} It has {', '.join(map(repr, names))}.")


def _make_table(
    columns: Mapping[str, Column],
    options: TableOptions,
    decoding: Decoding,
    sources: Sequence[RowSource],
    decoded: DecodedTable,
) -> Table:
    """The table, after checks of its target and its weights."""
    if sum(decoded.rows) >= 2**31:
        raise Error(f"{sum(decoded.rows):,} rows are too many: a table has at most 2^31 - 1.")

    def first(wrong: np.ndarray) -> str:
        return place_row(sources, decoded.rows, int(wrong.argmax()))

    rows = np.arange(sum(decoded.rows), dtype=np.int32)
    for name in options.targets:
        missing = columns[name].missing
        if missing.any() and not options.drop_missing_target:
            raise Error(
                f"The target {name} is missing in {missing.sum():,} of {len(missing):,} rows, "
                f"first in {first(missing)}: correct them, or leave them out by "
                "drop_missing_target=True."
            )
        rows = rows[~missing[rows]]
    for name in options.targets:
        _check_target(columns[name], rows, options)
    if options.weight:
        weight = columns[options.weight]
        wrong = ~(weight.data >= 0) if weight.kind != "category" else np.ones(1, bool)
        if wrong.any():
            raise Error(
                f"The weight {options.weight} must be a number from 0 on in every row, which it is "
                f"not in {first(wrong)}."
            )
    return Table(columns, options, decoding, tuple(sources), decoded.rows, rows)


def _check_target(target: Column, rows: np.ndarray, options: TableOptions) -> None:
    """Raises `Error` for a target that is constant, or of texts where numbers are needed."""
    if target.kind == "category" and (len(options.targets) > 1 or options.standardize_target):
        raise Error(
            f"The target {target.name} has texts, but several targets, or a standardized one, must "
            "be numbers."
        )
    if not len(rows) or (target.data[rows] == target.data[rows[0]]).all():
        raise Error(f"The target {target.name} has the same value in all {len(rows):,} rows.")
