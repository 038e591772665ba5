"""`jdl runs`: the table of all runs."""

import sys
from pathlib import Path

from jdl.cli.arguments import Root
from jdl.errors import Error


def runs(root: Root = Path("runs")) -> None:
    """List all runs: name, digest, seed, step, best metric and status."""
    from rich.console import Console
    from rich.table import Table

    from jdl.store.catalog import all_runs

    table = Table("name", "digest", "seed", "step", "best", "status", box=None, pad_edge=False)
    entries, errors = all_runs(root)
    for run in entries:
        seed = run.folder.name.removeprefix("seed")
        step = f"{run.step:,}/{run.record['config']['steps']:,}"
        table.add_row(run.name, run.record["digest"], seed, step, run.best, run.status)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if errors:
        raise Error("\njdl: ".join(errors))
