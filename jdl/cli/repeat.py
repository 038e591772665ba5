"""`jdl repeat`: train a run again, and compare."""

from pathlib import Path

from jdl.cli.arguments import Root, RunName


def repeat(run: RunName, root: Root = Path("runs")) -> None:
    """Train a run again from its record, and compare every step and checkpoint, to the bit."""
    from jdl.cli.diff import report
    from jdl.cli.startup import set_up_jax
    from jdl.inspect import compare
    from jdl.store.catalog import find
    from jdl.train.experiment import exit_on_error

    set_up_jax()
    with exit_on_error():
        comparison = compare.repeat(find(run, root))
    report(comparison)
