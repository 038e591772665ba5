"""Tables of your own: CSV and Parquet files, and data frames of pandas or Polars."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jdl.data.column_store import in_cache, in_memory
from jdl.data.columns import Column, DecodedTable, Decoding, RowSource, decode, place_row
from jdl.data.csv_file import CsvFile
from jdl.data.table import Table, TableOptions, read_options, unknown_column
from jdl.data.table_rows import FrameRows, ParquetFile, require_pyarrow
from jdl.types import Error

FORMAT = 2  # of decoded tables in the cache; increased when they are decoded otherwise


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
    missing, default_missing, max_categories, standardize_target, drop_missing_target. The first
    line of a file has the columns' names. Files are decoded once, into jdl's cache, and are
    memory-mapped from there: they may be larger than memory. `on_bad="skip"` leaves out lines with
    a wrong number of fields, with a warning that counts them and lists the first. Any other fault
    raises `Error`, with file, line and column.
    """
    if on_bad not in ("raise", "skip"):
        raise Error(f"on_bad is 'raise' or 'skip', not {on_bad!r}.")
    require_pyarrow()
    known = read_options(options, "csv", ("delimiter", "decimal", "encoding", "on_bad"))
    _check_characters(delimiter, decimal)
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
    known = read_options(options, "parquet")
    files = [ParquetFile(Path(path)) for path in _check_paths(paths)]
    return _read_files(files, known, known.decoding(), "parquet")


def frame(data: Any, **options: Any) -> Table:
    """A table from a data frame of pandas or Polars, an Arrow table, or a dict of columns.

    `options` are those of `TableOptions`, as for `csv`. The index of a pandas frame is not read.
    """
    require_pyarrow()
    known = read_options(options, "frame")
    rows = FrameRows(data)
    _check_options(known, rows)
    decoding = known.decoding()
    columns, decoded = in_memory(lambda writer: decode([rows], decoding, writer))
    return _make_table(columns, known, decoding, [rows], decoded)


def _check_characters(delimiter: str, decimal: str) -> None:
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise Error(
            f"delimiter is one ASCII character, such as ',', ';' or '\\t', not {delimiter!r}."
        )
    if len(decimal) != 1:
        raise Error(f"decimal is one character, '.' or ',', not {decimal!r}.")


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
    sums = [file.check() for file in files]
    _check_options(options, files[0])
    key = hashlib.sha256(repr((FORMAT, sums, dialect, decoding)).encode()).hexdigest()
    columns, decoded = in_cache(key, lambda writer: decode(files, decoding, writer))
    return _make_table(columns, options, decoding, files, decoded)


def _check_options(options: TableOptions, source: RowSource) -> None:
    """Raises `Error` where options name columns that the source does not have."""
    if options.standardize_target and not options.targets:
        raise Error("standardize_target needs a target: name its column by target.")
    drop, categories = options.texts("drop"), options.texts("categorical")
    numbers = options.texts("numeric") + options.texts("weight")
    kept = (*options.targets, *categories, *numbers)
    for name in (*kept, *drop):
        if name not in source.names:
            raise unknown_column(name, source.names, source.name)
    if both := set(kept) & set(drop):
        raise Error(f"Column {min(both)} is in drop, and named by another option too.")
    if both := set(categories) & set(numbers):
        raise Error(f"Column {min(both)} is in categorical, and in numeric or weight: choose one.")


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
        if (wrong := ~(weight.data >= 0)).any():
            raise Error(
                f"The weight {options.weight} must be a number from 0 on in every row, which it is "
                f"not in {first(wrong)}."
            )
    return Table(columns, options, decoding, tuple(sources), decoded.rows, rows)


def _check_target(target: Column, rows: np.ndarray, options: TableOptions) -> None:
    """Raises `Error` for a target that is constant, or of texts where numbers are needed."""
    classes = {"category": "texts or categories", "bool": "truth values"}
    several = len(options.targets) > 1 and target.kind == "category"
    if several or (options.standardize_target and target.kind in classes):
        raise Error(
            f"The target {target.name} has {classes[target.kind]}, but several targets, or a "
            "standardized one, must be numbers."
        )
    if not len(rows) or (target.data[rows] == target.data[rows[0]]).all():
        raise Error(f"The target {target.name} has the same value in all {len(rows):,} rows.")
