"""`jdl diff`: compare two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jdl.cli.arguments import Root

if TYPE_CHECKING:
    from jdl.inspect.compare import Comparison


def diff(
    a: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN_A", help="A run, named as in `jdl --help`."),
    ],
    b: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN_B", help="The run to compare it with."),
    ],
    root: Root = Path("runs"),
) -> None:
    """Compare two runs: config, environment, metrics; the first step and array that differ."""
    from jdl.inspect.compare import compare
    from jdl.store.catalog import find

    report(compare(find(a, root), find(b, root)))


def report(comparison: Comparison) -> None:
    """Prints a comparison; exit code 1 where a step differs."""
    print("\n".join([*comparison.lines, comparison.verdict]))
    if comparison.first_difference is not None:
        raise SystemExit(1)
