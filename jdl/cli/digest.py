"""`jdl digest`: one hash of a checkpoint's arrays."""

from pathlib import Path

from jdl.cli.arguments import Best, Root, RunName


def digest(run: RunName, root: Root = Path("runs"), best: Best = False) -> None:
    """Print the SHA-256 of a checkpoint's state: states equal to the bit have equal digests."""
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find
    from jdl.store.checkpoints import state_digest

    set_up_jax()
    trained = restore(find(run, root), best=best)
    print(f"{state_digest(trained.state)}  step {trained.step}")
