"""Rows of a table, encoded for an exported model as the rows of its training were.

Exported folders of tables have this file too, for their script: it needs numpy alone. `table` is
what manifest.json has by that name. What is wrong with a row is a `ValueError` in one sentence.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
VALUE = re.compile(r"value|q[\d.]+")  # outputs in the unit of the target
MOST = float(np.finfo(np.float32).max)
UNKNOWN, MISSING, FIRST = 0, 1, 2  # codes: an unknown category, a missing value, the first category
Cell = float | str | None


def names_of(table: Mapping[str, Any]) -> list[str]:
    """The columns that the model reads."""
    return [column["name"] for column in table["columns"]]


def encode(
    rows: Sequence[Mapping[str, Any]], table: Mapping[str, Any], places: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """x (N, F), and codes (N, C) if there are any, of rows by the names of the table's columns.

    Values are numbers, texts as a CSV file has them, truth values, dates, or None where missing.
    """
    places = places or [f"Row {n}" for n in range(len(rows))]
    _check_names(rows, table, places)
    numbers, flags, one_hot, codes = list[Any](), list[Any](), list[Any](), list[Any]()
    for column in table["columns"]:
        cells = [
            _cell(r[column["name"]], column, table, p) for r, p in zip(rows, places, strict=True)
        ]
        if column["kind"] == "category":
            known = {value: n for n, value in enumerate(column["values"], FIRST)}
            lacking = MISSING if column["missing"] else UNKNOWN
            found = [lacking if cell is None else known.get(cell, UNKNOWN) for cell in cells]
            codes.append(np.asarray(found, np.int32))
            one_hot += [codes[-1] == n for n in known.values()]
            one_hot += [codes[-1] == MISSING] * column["missing"]
        else:
            data = np.asarray([np.nan if cell is None else cell for cell in cells], np.float64)
            missing = np.isnan(data)
            filled = np.where(missing, column["median"], data)
            numbers.append((filled - column["mean"]) / column["std"])
            flags += [missing] * column["indicator"]
    x = np.zeros((len(rows), 0), np.float32)
    if parts := numbers + flags + one_hot * table["one_hot"]:
        x = np.stack(parts, 1).astype(np.float32)
    return {"x": x, "codes": np.stack(codes, 1)} if codes and not table["one_hot"] else {"x": x}


def check_codes(codes: np.ndarray, sizes: Sequence[int]) -> None:
    """Raises `ValueError` for a code (N, C) that its column does not have: it has no embedding."""
    if ((codes < 0) | (codes >= np.asarray(sizes))).any():
        most = ", ".join(str(size - 1) for size in sizes)
        raise ValueError(
            f"codes must be from 0 to {most}, by column, and some are not; 0 is any unknown one."
        )


def in_unit(outputs: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs with values and quantiles in the unit of the target, if it was standardized."""
    std, mean = (np.asarray(table["target"][name], np.float64) for name in ("std", "mean"))
    if not len(std):
        return dict(outputs)
    values = {name: np.asarray(out) for name, out in outputs.items() if VALUE.fullmatch(name)}
    found = {name: out.astype(np.float64) * std + mean for name, out in values.items()}
    return {**outputs, **{name: out.astype(np.float32) for name, out in found.items()}}


def read_csv(path: Path, table: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file as texts by column, each with its place: the line it begins in."""
    tabs, start = path.suffix.lower() == ".tsv", 1
    with path.open(encoding=table["encoding"], newline="") as file:
        reader = csv.reader(file, delimiter="\t" if tabs else table["delimiter"], strict=True)
        names = list[str]()
        try:
            for fields in reader:
                place, start = f"{path}:{start}", reader.line_num + 1
                if not names:
                    names = [name.removeprefix("\ufeff") for name in fields]
                    if twice := {name for name in names if names.count(name) > 1}:
                        raise ValueError(f"{path} has two columns {min(twice)!r}: rename one.")
                elif fields:
                    if len(fields) != len(names):
                        raise ValueError(
                            f"{place} has {len(fields)} fields instead of {len(names)}."
                        )
                    yield place, dict(zip(names, fields, strict=True))
        except csv.Error as error:
            raise ValueError(f"The row at {path}:{start} cannot be read: {error}.") from error


def _check_names(
    rows: Sequence[Mapping[str, Any]], table: Mapping[str, Any], places: Sequence[str]
) -> None:
    """Raises `ValueError` for a row without a column of the model, or with one of no table."""
    names = names_of(table)
    for row, place in zip(rows, places, strict=True):
        if not isinstance(row, Mapping):
            raise ValueError(f"{place} must have its values by name: {', '.join(names)}.")
        if lacking := [name for name in names if name not in row]:
            raise ValueError(
                f"{place} has no column {lacking[0]!r}: the model reads {', '.join(names)}."
            )
        if unknown := [name for name in row if name not in names and name not in table["others"]]:
            raise ValueError(
                f"{place} has a column {str(unknown[0])[:100]!r}, which the table of the training "
                f"did not have: the model reads {', '.join(names)}."
            )


def _cell(value: Any, column: Mapping[str, Any], table: Mapping[str, Any], place: str) -> Cell:
    """A number, or the text of a category; None for a missing value."""
    value = value.item() if isinstance(value, np.generic) else value
    value = value.strip() if isinstance(value, str) else value
    if value is None or type(value).__name__ == "NAType" or value != value:  # pandas.NA, and NaN
        return None
    if isinstance(value, str) and value in table["missing"]:
        return None
    try:
        if column["kind"] == "category":
            return _category(value)
        if column["kind"] == "number":
            return _number(value, table["decimal"])
        return _truth(value) if column["kind"] == "bool" else _days(value)
    except (TypeError, ValueError, OverflowError):
        kind = "true or false" if column["kind"] == "bool" else f"a {column['kind']}"
        raise ValueError(
            f"{place}: column {column['name']} has {str(value)[:100]!r}, and must be {kind}."
        ) from None


def _category(value: Any) -> str:
    """A category as a CSV file has it: whole numbers have no decimal point."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError


def _number(value: Any, decimal: str) -> float:
    if isinstance(value, str):
        if decimal != "." and "." in value:  # of thousands, probably
            raise ValueError
        value = value.replace(decimal, ".")
        if not NUMBER.fullmatch(value):
            raise ValueError
    elif isinstance(value, bool):
        raise TypeError
    if not abs(number := float(value)) <= MOST:
        raise ValueError
    return number


def _truth(value: Any) -> float:
    text = str(value).lower()
    if not isinstance(value, bool | str) or text not in ("true", "false"):
        raise ValueError
    return float(text == "true")


def _days(value: Any) -> float:
    """The days since 1970 of a date or a time; of one with a zone in UTC."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(time, date):
        raise TypeError
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    microseconds = (time - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    return microseconds / 86_400_000_000
