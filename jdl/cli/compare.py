"""`jdl compare`: which of several runs is better, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Root


def compare(
    groups: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="RUNS",
            help="The runs of a config, all its seeds: by name, digest or name/digest; or of a "
            "pattern, as 'cnn/*/seed0'.",
        ),
    ],
    metric: Annotated[
        str,
        tyro.conf.arg(
            help='"max accuracy", "min loss", ...; by default what the runs choose their best '
            "checkpoint by."
        ),
    ] = "",
    split: Annotated[str, tyro.conf.arg(help="valid or test.")] = "test",
    by_row: Annotated[
        bool, tyro.conf.arg(help="Compare on each row of the data, instead of over seeds.")
    ] = False,
    csv: Annotated[bool, tyro.conf.arg(help="Print the scores of all runs as CSV.")] = False,
    root: Root = Path("runs"),
) -> None:
    """Compare runs: which is better by a metric, by how much, and what speaks for it."""
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.compare_runs import compare_runs
    from jdl.store.catalog import find_group

    if by_row:
        set_up_jax()
    folders = {name: find_group(name, root) for name in groups}
    comparison = compare_runs(folders, metric, split, by_row)
    print(comparison.csv() if csv else comparison)
