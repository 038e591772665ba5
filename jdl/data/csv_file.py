"""CSV files: read block by block, and every error by its line as an editor counts them."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jdl.data.columns import MISSING
from jdl.types import Error

BLOCK = 1 << 20  # bytes that are read at once; Arrow reads rows of this length at any place
ROW = 2 * BLOCK  # letters of a row: Arrow reads none that is longer
LISTED = 10  # of the lines that were left out


def check_file(path: Path, example: str) -> Path:
    """The path, if there is such a file; `Error`, with near names, otherwise."""
    if path.is_dir():
        pattern = f"*{Path(example).suffix}"
        raise Error(
            f"{path} is a folder: name the files, as in *sorted(Path({str(path)!r}).glob("
            f"{pattern!r}))."
        )
    if not path.is_file():
        try:
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
        except OSError:
            near = []
        hint = f" Did you mean {near[0]}?" if near else ""
        raise Error(f"There is no file {path}.{hint}")
    return path


@dataclass(frozen=True, eq=False)
class CsvFile:
    """A CSV file, compressed (.gz, .bz2, .zst) or not; its first line has the columns' names."""

    path: Path
    delimiter: str = ","
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING
    skip: bool = False  # leaves out lines with a wrong number of fields, which else raise `Error`

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, from the first line."""
        with self._open() as stream:
            head = stream.read(BLOCK)
        if not head.strip():
            raise Error(f"{self.path} is empty.")
        text = codecs.getincrementaldecoder(self.encoding)().decode(head)
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter)
            header = next(fields for fields in lines if fields)
        except (csv.Error, StopIteration) as error:
            raise Error(f"The first line of {self.path} cannot be read: {error}.") from error
        header[0] = header[0].removeprefix("\ufeff")  # the byte order mark of Excel's UTF-8
        return tuple(header)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The rows, as record batches of strings."""
        import pyarrow as pa
        import pyarrow.csv

        read = pyarrow.csv.ReadOptions(block_size=BLOCK, encoding=self.encoding)
        parse = pyarrow.csv.ParseOptions(
            delimiter=self.delimiter,
            newlines_in_values=True,
            invalid_row_handler=lambda row: "skip" if self.skip else "error",
        )
        convert = pyarrow.csv.ConvertOptions(
            strings_can_be_null=True,
            null_values=list(self.missing),
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(columns),
        )
        with self._open() as stream:
            try:
                yield from pyarrow.csv.open_csv(stream, read, parse, convert)
            except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError) as error:
                raise self._explain(error) from error

    def check(self) -> str:
        """SHA-256 of the content; `Error` for bytes that are no text in this encoding."""
        try:
            " ".encode(self.encoding)  # bytes to bytes, such as hex, are no encodings of texts
        except LookupError as error:
            raise Error(f"There is no encoding {self.encoding!r}; utf-8 is common.") from error
        decoder = codecs.getincrementaldecoder(self.encoding)()
        digest, lines, tail, quotes = hashlib.sha256(), 1, b"", 0
        with self._open() as stream:
            while True:
                content = stream.read(BLOCK)
                digest.update(content)
                try:
                    text = decoder.decode(content, final=not content)
                except UnicodeDecodeError as error:
                    line = lines + _count_lines((tail + content)[: error.start].decode("latin-1"))
                    raise Error(
                        f"Line {line} of {self.path} is not {self.encoding}: {error.reason} (byte "
                        f"0x{error.object[error.start]:02x}). Say how it was saved, such as "
                        "encoding='cp1252' (Excel) or 'utf-16', or save it as UTF-8."
                    ) from error
                if "\0" in text:
                    line = lines + _count_lines(text[: text.index("\0")])
                    raise Error(
                        f"Line {line} of {self.path} has a NUL byte: the file is damaged, or it "
                        "is no text; files in UTF-16 need encoding='utf-16'."
                    )
                if not content:
                    break
                lines, quotes = lines + _count_lines(text), quotes + text.count('"')
                tail = decoder.getstate()[0]
        if quotes % 2:
            self._check_last_quote()
        return digest.hexdigest()

    def place(self, row: int) -> str:
        """The line in which row 0, 1, ... begins."""
        try:
            good = (line for line, fields in self._records() if len(fields) == len(self.names))
            for _ in range(row + 1):
                next(good)
            return f"line {next(good)} of {self.path}"
        except (csv.Error, StopIteration):
            return f"row {row} of {self.path}"

    def lines(self) -> list[int]:
        """The line in which each row begins, for a file that was read without an error."""
        return [line for line, _ in self._records()][1:]

    def left_out(self) -> str:
        """The notice of the lines with a wrong number of fields: how many, and the first of them.

        Empty where there are none.
        """
        count, listed, width = 0, [], len(self.names)
        for line, fields in self._records():
            if len(fields) != width:
                count += 1
                if count <= LISTED:
                    listed.append(f"line {line} has {len(fields)} fields instead of {width}")
        more = ["..."] if count > LISTED else []
        return f"{count:,} lines of {self.path} were left out: {', '.join(listed + more)}." * (
            count > 0
        )

    def _check_last_quote(self) -> None:
        """Raises `Error` where a quote is open at the end: Arrow would take the rest for a text."""
        last = 0
        try:
            for line, _ in self._records(strict=True):
                last = line
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise Error(
                    f"In {self.path}, a quote is opened in the row after line {last} and never "
                    "closed: close it, or write quotes within a text twice."
                ) from error

    def _explain(self, error: Exception) -> Error:
        """What is wrong with a file that Arrow cannot read, and where."""
        line, longest, longest_line = 0, 0, 0
        try:
            for line, fields in self._records():
                letters = sum(map(len, fields)) + len(fields) - 1
                if letters > longest:
                    longest, longest_line = letters, line
                if len(fields) != len(self.names) and not self.skip:
                    return Error(
                        f"Line {line} of {self.path} has {len(fields)} fields instead of "
                        f"{len(self.names)}: {_short(self.delimiter.join(fields))!r}. Correct it, "
                        "put texts with a delimiter in quotes, or, for training, leave out such "
                        "lines by on_bad='skip'."
                    )
        except csv.Error:
            return Error(
                f"The row after line {line} of {self.path} is too long: a quote that is not "
                f"closed, or a row of more than {ROW:,} letters."
            )
        if "straddling" in str(error):
            return Error(
                f"The row in line {longest_line} of {self.path} has {longest:,} letters, and can "
                f"have {BLOCK:,}: a quote may not be closed. Otherwise shorten the row, or save "
                "the table as Parquet."
            )
        return Error(f"{self.path} cannot be read as CSV: {error}.")

    def _records(self, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row, the names included, and the line in which the row begins."""
        with self._open() as stream, io.TextIOWrapper(stream, self.encoding, newline="") as text:
            lines = iter(lambda: _next_line(text), "")
            reader, line = csv.reader(lines, delimiter=self.delimiter, strict=strict), 1
            while (fields := next_row(reader)) is not None:
                if fields:
                    yield line, fields
                line = reader.line_num + 1

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The content, decompressed; `Error` where it cannot be read to its end."""
        import pyarrow as pa

        try:
            with pa.input_stream(str(check_file(self.path, "data.csv"))) as stream:
                yield stream
        except (OSError, pa.ArrowException) as error:
            raise Error(f"{self.path} cannot be read: {error}.") from error


def _next_line(text: io.TextIOWrapper) -> str:
    """The next line; `csv.Error` for one of gigabytes, before it is in memory."""
    line = text.readline(ROW + 1)
    if len(line) > ROW:
        raise csv.Error("line too long")
    return line


def next_row(reader: Any, most: int = ROW) -> list[str] | None:
    """The fields of the next row, of at most so many letters; None at the end.

    The limit of a field is one for all readers of the process, so it is put back.
    """
    limit = csv.field_size_limit(most)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _count_lines(text: str) -> int:
    return text.count("\n") or text.count("\r")


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
