"""The table of all runs: progress, best metric, and the config's fields that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jdl.config import flat_config
from jdl.store.catalog import Entry, matching_runs
from jdl.types import Error

Row = dict[str, Any]
COLUMNS = ("name", "digest", "seed", "step", "steps", "status", "metric", "best")


def run_table(
    root: Path | str = "runs", name: str = "", sort: str = ""
) -> tuple[list[Row], list[str]]:
    """The runs under `root` as rows, and errors for those that cannot be read.

    A row has the columns name, digest, seed, step, steps, status, metric, best, and those fields of
    the config in which runs of the same name differ, hyperparameters: `config.best` is a field that
    has the name of a column. `name` chooses runs as in
    `jdl runs`. They are sorted by a column: "best" has the best first, any other the smallest.
    `pandas.DataFrame(rows)` makes a data frame of them.
    """
    entries, errors = matching_runs(name, Path(root))
    rows = _rows(entries)
    if not sort:
        return rows, errors
    if rows and sort not in rows[0]:
        raise Error(f"There is no column {sort!r}, but {', '.join(rows[0])}.")
    lowest = [entry.record["best"].startswith("min") for entry in entries]
    keys = [_sort_key(row, sort, low) for row, low in zip(rows, lowest, strict=True)]
    return [rows[n] for n in sorted(range(len(rows)), key=keys.__getitem__)], errors


def _rows(entries: Sequence[Entry]) -> list[Row]:
    configs = [flat_config(entry.record["config"]) for entry in entries]
    shown = _differing([entry.name for entry in entries], configs)
    return [
        {
            "name": entry.name,
            "digest": entry.record["digest"],
            "seed": entry.record["seed"],
            "step": entry.step,
            "steps": entry.record["config"]["steps"],
            "status": entry.status,
            "metric": entry.metric,
            "best": entry.best,
            **{
                f"config.{field}" if field in COLUMNS else field: config.get(field)
                for field in shown
            },
        }
        for entry, config in zip(entries, configs, strict=True)
    ]


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
