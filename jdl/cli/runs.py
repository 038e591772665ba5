"""`jdl runs`: the table of all runs."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from jdl.cli.arguments import Root
from jdl.errors import Error
from jdl.numbers import number_text


def runs(
    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[RUNS]",
            help="Only these: a name, digest or name/digest, or a pattern, as 'cnn/*/seed0'.",
        ),
    ] = "",
    sort: Annotated[
        str, tyro.conf.arg(help='Sort by this column: "best" has the best first.')
    ] = "",
    where: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            help="Only runs for which this holds, as 'lr<0.01' or tags=paper; repeatable."
        ),
    ] = (),
    columns: Annotated[
        str,
        tyro.conf.arg(
            help="Show these fields of the config, as lr,width; by default those that differ among "
            "runs of one name."
        ),
    ] = "",
    tag: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(help="Tag all these runs; repeatable. The runs themselves stay as they are."),
    ] = (),
    untag: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(help="Take this tag from all these runs; repeatable."),
    ] = (),
    note: Annotated[
        str | None, tyro.conf.arg(help='Write this note to all these runs; "" takes it away.')
    ] = None,
    as_csv: Annotated[
        bool, tyro.conf.arg(name="csv", help="Print the table as CSV, with all digits.")
    ] = False,
    root: Root = Path("runs"),
) -> None:
    """List runs: progress, best metric, and the fields of their configs that differ."""
    from jdl.inspect.run_table import chosen_runs, other_data, rows_of

    tags = bool(tag or untag or note is not None)
    if tags and not (name or where):
        raise Error("Which runs? Name them, or choose them by --where: jdl runs RUNS --tag paper.")
    entries, errors = chosen_runs(root, name, where)
    if tags and not entries:
        raise Error("\njdl: ".join(["There is no such run, so none is tagged.", *errors]))
    if tags:
        _annotate(entries, tag, untag, note)
    rows = rows_of(entries, sort, columns.split(",") if columns else ())
    (_print_csv if as_csv else _print)(rows)
    if sort == "best" and (text := other_data(entries)):
        print(f"jdl: {text}.", file=sys.stderr)
    if errors:
        raise Error("\njdl: ".join(errors))


def _annotate(
    entries: list[Any], tag: tuple[str, ...], untag: tuple[str, ...], note: str | None
) -> None:
    from jdl.store.annotations import annotate

    for one in entries:
        annotate(one.folder, tag, untag, note)
    print(f"tagged {len(entries):,} run{'s' * (len(entries) > 1)}", file=sys.stderr)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("name", "digest", "seed", "step", "best", "status")
    fields = (
        [column for column in rows[0] if column not in (*columns, "steps", "metric")]
        if rows
        else []
    )
    table = Table(*columns, *fields, box=None, pad_edge=False)
    for row in rows:
        best = None if row["best"] is None else f"{row['metric']} {number_text(row['best'])}"
        shown = {**row, "step": f"{row['step']:,}/{row['steps']:,}", "best": best}
        cells = (shown[column] for column in (*columns, *fields))
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
