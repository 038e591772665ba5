"""`jdl study`: hyperparameter search of an experiment, as a study of many runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jdl.errors import Error
from jdl.numbers import number_text


def study(arguments: list[str]) -> None:
    """Trains the trials of a study; what is no flag of a study is a flag of `jdl train SCRIPT`.

    Of the folder of a study that ended, it shows the table.
    """
    if not arguments or arguments[0].startswith("-"):
        raise Error("jdl study needs a script first: jdl study SCRIPT.py --grid lr=1e-3,3e-3.")
    import tyro

    from jdl.cli.startup import set_up_jax
    from jdl.study import Search, tune
    from jdl.train.broken_pipe import show
    from jdl.train.experiment import exit_on_error
    from jdl.train.malloc import keep_memory

    script, *flags = arguments
    if Path(script).is_dir():
        _show(Path(script), flags)
        return
    about = (
        "Search the hyperparameters of an experiment, by its validation data. All flags of "
        f"`jdl train {script}` hold for every trial."
    )
    search, rest = tyro.cli(
        Search,
        args=flags,
        prog=f"jdl study {script}",
        description=about,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    set_up_jax()
    keep_memory()
    with exit_on_error():
        rows = tune(Path(script), search, rest, report=show)
        _print(rows)
        _explain(Path(rows[0]["folder"]).parent)


def _show(folder: Path, flags: list[str]) -> None:
    from jdl.study.folder import read_table

    if flags:
        raise Error(f"{folder} is shown as it is, without {flags[0]}: with flags, name a script.")
    _print(read_table(folder)[0])
    _explain(folder)


def _explain(folder: Path) -> None:
    """Prints which fields the score of a study depends on, and draws its trials."""
    from jdl.study.folder import read_table
    from jdl.study.importance import draw_study, importance, importance_line, log_fields

    rows, search = read_table(folder)
    low, log = search["metric"].startswith("min"), log_fields(search)
    try:
        shares = importance(rows, log)
        print(importance_line(rows, shares))
    except Error as error:
        shares = {}
        print(error)
    figure = folder / "figures" / "parallel_coordinates.png"
    draw_study(rows, low, log, shares, figure)
    if figure.exists():
        print(figure)


def _print(rows: list[dict[str, Any]]) -> None:
    """Prints the table, best first, and what the best reaches on the test data."""
    from rich.console import Console
    from rich.table import Table

    from jdl.study.folder import score

    shown = [column for column in rows[0] if column not in ("seeds", "folder", "failure")]
    table = Table(*shown, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(column, row[column]) for column in shown))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print("", table, "", sep="\n", highlight=False)
    best, failed = rows[0], [row for row in rows if row["failure"]]
    if len(failed) == len(rows):
        raise Error(f"All {len(rows):,} trials failed, {_why(failed[0])}")
    if failed:
        print(f"{len(failed):,} of {len(rows):,} trials failed, {_why(failed[0])}")
    if best["status"] != "finished":
        print(
            f"No trial has come to its end: trial {best['trial']} was the best when it was stopped."
        )
        return
    print(f"Best: trial {best['trial']}, {best['folder']}/{_seeds(best)[0].name}")
    metric = next(column for column in best if column.startswith("valid ")).removeprefix("valid ")
    values = [score(run, "test", metric) for run in _seeds(best)]
    of_test = [value for value in values if value is not None]
    if of_test:
        value = sum(of_test) / len(of_test)
        print(f"Its test {metric}, by which nothing was chosen: {number_text(value)}")


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    return number_text(value) if column == "std" or column.startswith("valid ") else str(value)


def _why(row: dict[str, Any]) -> str:
    return f"the first is trial {row['trial']}: {row['failure']}"


def _seeds(row: dict[str, Any]) -> list[Path]:
    """The folders of a trial's runs, by seed."""
    runs = [run for run in Path(row["folder"]).glob("seed*") if run.name[4:].isdigit()]
    return sorted(runs, key=lambda run: int(run.name[4:]))
