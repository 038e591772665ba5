"""The table of all runs: progress, best metric, and the config's fields that differ."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jdl.config import flat_config
from jdl.store.annotations import read_annotations
from jdl.store.catalog import Entry, matching_runs
from jdl.types import Error

Row = dict[str, Any]
COLUMNS = ("name", "digest", "seed", "step", "steps", "status", "metric", "best", "tags", "note")
CONDITION = re.compile(r"\s*([\w.-]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}


def run_table(
    root: Path | str = "runs",
    name: str = "",
    sort: str = "",
    where: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> tuple[list[Row], list[str]]:
    """The runs under `root` as rows, and errors for those that cannot be read.

    A row has the columns name, digest, seed, step, steps, status, metric, best, and those fields of
    the config in which runs of the same name differ, hyperparameters: `config.best` is a field that
    has the name of a column. `columns` has these replaced by the fields that it names. Where a
    run is tagged, there are the columns tags and note. `name` chooses runs as in `jdl runs`, and so
    do conditions, as `where=["lr<0.01", "tags=paper"]`, of columns and of any field: all of them
    hold. Rows are sorted by a column: "best" has the best first, any other the smallest.
    `pandas.DataFrame(rows)` makes a data frame of them.
    """
    entries, errors = chosen_runs(root, name, where)
    return rows_of(entries, sort, columns), errors


def rows_of(entries: Sequence[Entry], sort: str = "", columns: Sequence[str] = ()) -> list[Row]:
    """The rows of `run_table` of these runs, sorted by a column."""
    named = (column.strip().removeprefix("config.").replace("-", "_") for column in columns)
    rows = _rows(entries, [*filter(None, named)])
    sort = sort.replace("-", "_")  # as in flags
    if not sort:
        return rows
    if rows and sort not in rows[0]:
        raise Error(f"There is no column {sort!r}, but {', '.join(rows[0])}.")
    lowest = [entry.record["best"].startswith("min") for entry in entries]
    keys = [_sort_key(row, sort, low) for row, low in zip(rows, lowest, strict=True)]
    return [rows[n] for n in sorted(range(len(rows)), key=keys.__getitem__)]


def chosen_runs(
    root: Path | str, name: str = "", where: Sequence[str] = ()
) -> tuple[list[Entry], list[str]]:
    """The runs that `run_table` shows, and errors for those that cannot be read."""
    entries, errors = matching_runs(name, Path(root))
    readable = []
    for entry in entries:
        try:
            read_annotations(entry.folder)
            readable.append(entry)
        except Error as error:
            errors.append(str(error))
    return _fitting(readable, where), errors


def other_data(entries: Sequence[Entry]) -> str:
    """A sentence where the best metrics of runs are of other data; "" where all have the same.

    Runs are ranked by a metric of valid data, or where there are none of test data: those of other
    data cannot be compared. Where only the data of the training differ, they may be the reason.
    """
    for split in ("valid", "test", "train"):
        of: dict[str, set[str]] = {}
        for entry in entries:
            hashes = entry.record["data"]
            if split != "test" or not hashes.get("valid"):
                of.setdefault(entry.metric, set()).add(str(hashes.get(split)))
        count = max(map(len, of.values()), default=1)
        if count > 1 and split == "train":
            return f"these runs were trained on {count} different sets of data, which may rank them"
        if count > 1:
            return (
                f"these runs were evaluated on {count} different sets of {split} data, by their "
                "hashes in run.json: their metrics are not comparable"
            )
    return ""


def _rows(entries: Sequence[Entry], columns: Sequence[str] = ()) -> list[Row]:
    configs = [flat_config(entry.record["config"]) for entry in entries]
    shown = [*columns] or _differing([entry.name for entry in entries], configs)
    has = {field for config in configs for field in config}
    if configs and (unknown := [field for field in shown if field not in has]):
        raise Error(
            f"--columns {unknown[0]}: no run has this field. There are {', '.join(sorted(has))}."
        )
    rows = [_columns(entry) for entry in entries]
    if not any(row["tags"] or row["note"] for row in rows):
        rows = [{k: v for k, v in row.items() if k not in ("tags", "note")} for row in rows]
    return [
        row | {_column(field): config.get(field) for field in shown}
        for row, config in zip(rows, configs, strict=True)
    ]


def _columns(entry: Entry) -> Row:
    """The columns of a run that are no fields of its config."""
    said = read_annotations(entry.folder)
    return {
        "name": entry.name,
        "digest": entry.record["digest"],
        "seed": entry.record["seed"],
        "step": entry.step,
        "steps": entry.record["config"]["steps"],
        "status": entry.status,
        "metric": entry.metric,
        "best": entry.best,
        "tags": ", ".join(said.tags),
        "note": said.note,
    }


def _column(field: str) -> str:
    return f"config.{field}" if field in COLUMNS else field


def _fitting(entries: Sequence[Entry], where: Sequence[str]) -> list[Entry]:
    """The runs for which all conditions hold; `Error` where a condition is none, or no run has it.

    A condition compares numbers by size, and all else as texts, by = and !=. What a run does not
    have, fits nothing.
    """
    fitting = list(range(len(entries)))
    rows = [_all_columns(entry) for entry in entries] if where else []
    for condition in where:
        match = CONDITION.fullmatch(condition)
        if not match:
            raise Error(f"--where is written as 'lr<0.01' or 'tags=paper', not {condition!r}.")
        column, sign, text = match.groups()
        column = column.replace("-", "_")  # as in flags
        if entries and not any(column in row for row in rows):
            raise Error(f"--where {condition}: no run has a column or a field {column!r}.")
        having = [n for n in fitting if column in rows[n]]
        fitting = [n for n in having if _holds(rows[n][column], sign, text, condition)]
    return [entries[n] for n in fitting]


def _all_columns(entry: Entry) -> Row:
    """The columns of a run, its tags as a list, and all fields of its config."""
    columns = _columns(entry)
    fields = {_column(k): v for k, v in flat_config(entry.record["config"]).items()}
    return fields | columns | {"tags": columns["tags"].split(", ")}


def _holds(value: Any, sign: str, text: str, condition: str) -> bool:
    compare, by_size = COMPARISONS[sign], sign not in ("=", "==", "!=")
    if value is None and by_size:
        return False
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (by_size or text.lower() != "none"):
        try:
            return compare(value, float(text))
        except ValueError:
            raise Error(f"--where {condition}: {value!r} is compared with a number.") from None
    if by_size:
        raise Error(f"--where {condition}: {value!r} is no number, so compare it by = or !=.")
    if isinstance(value, list) and all(isinstance(one, str) for one in value):  # tags
        return compare(text in value, True)
    return compare(str(value).lower(), text.lower())


def _differing(names: Sequence[str], configs: Sequence[Row]) -> list[str]:
    """The fields in which two configs of the same name differ, besides those of every table."""
    values: dict[tuple[str, str], set[str]] = {}
    fields = dict.fromkeys(field for config in configs for field in config)
    for name, config in zip(names, configs, strict=True):
        for field in fields:
            values.setdefault((name, field), set()).add(repr(config.get(field)))
    several = {field for (_, field), found in values.items() if len(found) > 1}
    return [field for field in fields if field in several - {"name", "seed", "steps"}]


def _sort_key(row: Row, column: str, low: bool) -> tuple[bool, str, Any]:
    """Sorts numbers by size, all else by its text, and what is missing to the end."""
    value = row[column]
    if isinstance(value, int | float):
        return False, "", -value if column == "best" and not low else value
    return value is None, "text", str(value)
