"""`jdl evaluate`: the metrics of a checkpoint."""

from pathlib import Path

from jdl.cli.arguments import Best, Root, RunName


def evaluate(run: RunName, root: Root = Path("runs"), best: Best = False) -> None:
    """Evaluate a run's checkpoint on its validation and test data."""
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.evaluate import evaluate as evaluate_run
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find

    set_up_jax()
    trained = restore(find(run, root), best=best)
    print(f"step {trained.step:,}")
    for split, metrics in evaluate_run(trained).items():
        for name, value in metrics.items():
            print(f"{split:<6} {name:<24} {value:.6f}")
