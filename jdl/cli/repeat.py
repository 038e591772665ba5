"""`jdl repeat`: train a run again, and compare."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Root


def repeat(
    run: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="RUN",
            help="A run, named as in `jdl --help`, or a folder that `jdl bundle` wrote.",
        ),
    ],
    root: Root = Path("runs"),
    anyway: Annotated[
        bool,
        tyro.conf.arg(
            help="Of a bundle: train also where versions, flags, data or machine differ."
        ),
    ] = False,
) -> None:
    """Train a run again from its record, and compare every step and checkpoint, to the bit."""
    from jdl.bundle import repetition
    from jdl.cli.diff import report
    from jdl.cli.startup import set_up_jax
    from jdl.inspect import compare
    from jdl.store.catalog import find
    from jdl.train.experiment import exit_on_error

    set_up_jax()
    with exit_on_error():
        if repetition.is_bundle(Path(run)):
            print(f"jdl: this runs the code in {run}: repeat only what you trust", file=sys.stderr)
            comparison = repetition.repeat(run, anyway)
        else:
            comparison = compare.repeat(find(run, root))
    report(comparison)
