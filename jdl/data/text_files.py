"""Labelled rows of text: of CSV and JSON lines, of a folder for each class, or of columns."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.bad_rows import OnBad, check_on_bad
from jdl.data.folders import class_folders
from jdl.types import Error

MAX_LINE = 64 << 20  # bytes; a longer line is no text, and would fill the memory
SHOWN = 3  # rows that were left out which a warning names
Row = Mapping[str, Any] | str  # a row's values by column, or what is wrong with it


@dataclass(frozen=True)
class TextRows:
    """Rows of texts: one or two in each, its label, and where it is, such as reviews.csv:17."""

    texts: list[tuple[str, ...]]
    labels: list[Any]
    places: list[str]
    skipped: tuple[str, ...]  # the rows that were left out: where each is, and why


def read_rows(
    source: Any,
    text: Sequence[str],
    label: str | None,
    on_bad: OnBad = "raise",
    labels: Sequence[str] = (),
) -> TextRows:
    """The rows of a .csv, .tsv or .jsonl file, of a folder for each class, or of columns.

    `text` and `label` are names of columns; without a label none is read. `labels` are the classes
    that folders may be, by default those that there are. Raises `Error` with file and line for the
    first bad row; with `on_bad="skip"` bad rows are left out, counted and listed.
    """
    check_on_bad(on_bad)
    rows = TextRows([], [], [], ())
    skipped: list[str] = []
    with _long_values():
        for place, row in _source_rows(source, text, label, labels):
            problem = row if isinstance(row, str) else _problem(row, text, label)
            if problem and on_bad == "raise":
                raise Error(
                    f'{place} {problem}. Correct it, or leave such rows out: on_bad="skip".'
                )
            if problem:
                skipped.append(f"{place} {problem}")
            elif not isinstance(row, str):
                rows.texts.append(tuple(row[name] for name in text))
                rows.labels.append(row[label] if label else None)
                rows.places.append(place)
    name = source if isinstance(source, str | Path) else "The columns"
    if skipped:
        more = f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        warnings.warn(
            f"{name}: {len(skipped)} bad rows are left out: {'; '.join(skipped[:SHOWN])}{more}.",
            stacklevel=3,
        )
    if not rows.texts:
        raise Error(f"{name} has no rows of text{': all are bad' if skipped else ''}.")
    return TextRows(rows.texts, rows.labels, rows.places, tuple(skipped))


def read_lines(path: Path) -> tuple[list[str], list[str]]:
    """The lines of a text file in UTF-8 that are not blank: where each is, and the line.

    Raises `Error` where there are none.
    """
    places, lines = [], []
    for number, line in enumerate(_lines(path), 1):
        if not is_utf8(line):
            raise Error(f"{path}:{number} is not UTF-8: save the file as UTF-8.")
        if line.strip():
            places.append(f"{path}:{number}")
            lines.append(line.rstrip("\r\n"))
    if not lines:
        raise Error(f"{path} is empty: write one input per line.")
    return places, lines


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no lone surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


@contextmanager
def _long_values() -> Iterator[None]:
    """Lets the csv module read values as long as a line may be; by default 131,072 letters."""
    before = csv.field_size_limit(MAX_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _source_rows(
    source: Any, text: Sequence[str], label: str | None, labels: Sequence[str]
) -> Iterator[tuple[str, Row]]:
    """Where each row is, and the row."""
    if not isinstance(source, str | Path):
        return _column_rows(source, text, label)
    path = Path(source)
    names = [*text, *([label] if label else [])]
    if path.is_dir():
        if len(text) > 1 or label is None:
            raise Error(f"{path} is a folder, which has one text and one label a file.")
        return _folder_rows(path, text[0], label, labels or None)
    if not path.is_file():
        raise Error(f"{path} does not exist, or is no file.")
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_rows(path, names)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return json_rows(path)
    raise Error(
        f"{path} is neither .csv, .tsv, .jsonl nor a folder with a folder of .txt files for each "
        "class: convert it, or give columns, {'text': [...], 'label': [...]}."
    )


def _problem(row: Mapping[str, Any], text: Sequence[str], label: str | None) -> str | None:
    """What is wrong with the values of a row, if anything."""
    for name in text:
        value = row.get(name)
        if not isinstance(value, str):
            return f"has no text in column {name}, but {value!r:.40}"
        if not value.strip():
            return f"has an empty text in column {name}"
        if "\0" in value:
            return f"has a NUL character in column {name}"
        if not is_utf8(value):
            return f"is not UTF-8 in column {name}"
    value = row.get(label) if label else 0
    known = isinstance(value, str | int | float | np.generic)
    if not known or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return f"has no label in column {label}, but {value!r:.40}"
    return None


def _column_rows(columns: Any, text: Sequence[str], label: str | None) -> Iterator[tuple[str, Row]]:
    names = [*text, *([label] if label else [])]
    try:
        values = {name: list(columns[name]) for name in names}
    except (KeyError, TypeError, IndexError) as error:
        raise Error(
            f"The texts must be a path or columns by name, such as a dict or a frame, that has "
            f"{', '.join(names)}; {type(columns).__name__} does not: {error!r}."
        ) from error
    counts = {name: len(column) for name, column in values.items()}
    if len(set(counts.values())) > 1:
        raise Error(f"All columns must have the same number of rows, but they have {counts}.")
    for n, row in enumerate(zip(*values.values(), strict=True)):
        yield f"Row {n}", dict(zip(names, row, strict=True))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file of UTF-8, ends included; bytes that are not become lone surrogates."""
    try:
        with path.open("rb") as start:
            if start.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise Error(f"{path} is UTF-16: save it as UTF-8.")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) >= MAX_LINE:
                    raise Error(f"{path}:{number} has more than {MAX_LINE >> 20} MiB: no text.")
                yield line
    except OSError as error:
        raise Error(f"{path} cannot be read: {error}.") from error


def _csv_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a table with a header, read by Python's csv module."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        missing = [name for name in names if name not in header]
        if missing:
            raise Error(
                f"{path}:1 names the columns {', '.join(header) or '(none)'}, but not "
                f"{missing[0]}: rename it, or (for labelled_text) give the column's name, "
                "text=... and label=..."
            )
        if twice := {name for name in header if header.count(name) > 1}:
            raise Error(f"{path}:1 names the column {min(twice)} twice: rename one of them.")
        line = reader.line_num + 1
        for values in reader:
            place = f"{path}:{line}"
            if values and len(values) != len(header):
                yield place, f"has {len(values)} values, and the header {len(header)}"
            elif values:
                yield place, dict(zip(header, values, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise Error(
            f"{path}:{line} cannot be read as CSV: {error}. Look for a quotation mark there that "
            "does not end, or that is not doubled within a text."
        ) from error


def json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of JSON lines, and where each is; or what is wrong with a line."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique_names)
        except (ValueError, RecursionError) as error:
            yield place, f"is not JSON: {error}"
            continue
        yield place, row if isinstance(row, dict) else "is no JSON object"


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} comes twice")
    return row


def _folder_rows(
    folder: Path, text: str, label: str, labels: Sequence[str] | None
) -> Iterator[tuple[str, Row]]:
    """The .txt files in the folder of each class."""
    files = class_folders(folder, (".txt",), labels)
    if files.remark:
        warnings.warn(files.remark, stacklevel=4)
    for path, place, y in zip(files.paths, files.places, files.y, strict=True):
        yield place, _file_row(path, text, {label: files.labels[y]})


def _file_row(file: Path, text: str, row: dict[str, str]) -> Row:
    """The row of a text file, or what is wrong with it."""
    try:
        if not file.is_file():  # a pipe would wait for ever
            return "is no regular file"
        if file.stat().st_size > MAX_LINE:
            return f"has more than {MAX_LINE >> 20} MiB: no text"
        return row | {text: file.read_text("utf-8-sig", errors="surrogateescape")}
    except OSError as error:
        return f"cannot be read: {error}"
