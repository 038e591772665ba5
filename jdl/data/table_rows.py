"""Parquet files and data frames, read as Arrow record batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jdl.data.columns import RowSource
from jdl.data.csv_file import CsvFile, check_file
from jdl.types import Error

BATCH = 1 << 16  # rows of a record batch
PARQUET = (".parquet", ".parq", ".pq")  # the names of Parquet files end so


def require_pyarrow() -> None:
    """Raises `Error`, with the command that installs it, where pyarrow is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise Error("Tables need pyarrow: pip install 'jdl[tables]'.") from error


@dataclass(frozen=True, eq=False)
class ParquetFile:
    """A Parquet file, read one row group after the other."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._file.schema_arrow.names)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The rows, as record batches of these columns."""
        import pyarrow as pa

        try:
            yield from self._file.iter_batches(BATCH, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise Error(f"{self.path} cannot be read as Parquet: {error}.") from error

    def check(self) -> str:
        """SHA-256 of the file."""
        try:
            with open(check_file(self.path, "data.parquet"), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Error(f"{self.path} cannot be read: {error}.") from error

    def place(self, row: int) -> str:
        """Row 0, 1, ... of the file."""
        return f"row {row} of {self.path}"

    @cached_property
    def _file(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet

        path = check_file(self.path, "data.parquet")
        try:
            return pyarrow.parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise Error(f"{path} cannot be read as Parquet: {error}.") from error


@dataclass(frozen=True, eq=False)
class FrameRows:
    """The rows of a data frame in memory: of pandas, Polars or Arrow, or a dict of columns."""

    frame: Any

    @property
    def name(self) -> str:
        """What it is."""
        return "the data frame"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        if self._is_of("pandas"):
            return tuple(str(name) for name in self.frame.columns)
        return tuple(self._table.column_names)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The rows, as record batches of these columns."""
        yield from self._table.select(list(columns)).to_batches(BATCH)

    def place(self, row: int) -> str:
        """Row 0, 1, ... of the frame."""
        return f"row {row}"

    def _is_of(self, package: str) -> bool:
        return type(self.frame).__module__.split(".")[0] == package

    @cached_property
    def _table(self) -> Any:
        import pyarrow as pa

        if isinstance(self.frame, pa.Table):
            return self.frame
        if self._is_of("polars") and hasattr(self.frame, "collect"):
            raise Error("frame takes a Polars DataFrame, not a LazyFrame: call .collect() first.")
        try:
            if self._is_of("pandas"):
                return pa.Table.from_pandas(self.frame, preserve_index=False)
            return pa.table(self.frame)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise Error(
                f"The data frame cannot be read: {' '.join(map(str, error.args))}. It takes a "
                "frame of pandas or Polars, an Arrow table or a dict of columns, each with values "
                "of one type."
            ) from error


def new_source(new: Any, old: RowSource) -> RowSource:
    """New rows, as a source that is read as the old one was, but for lines that are left out.

    A prediction is made for every row.
    """
    if not isinstance(new, str | Path):
        return FrameRows(new)
    path = Path(new)
    if path.suffix.lower() in PARQUET:
        return ParquetFile(path)
    return replace(old, path=path, skip=False) if isinstance(old, CsvFile) else CsvFile(path)
