"""`jdl evaluate`: the metrics of a checkpoint."""

from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Best, Root, RunName
from jdl.numbers import number_text


def evaluate(
    run: RunName,
    by: Annotated[
        str,
        tyro.conf.arg(
            metavar="RUN",
            help="Of text to speech: the run of a speech recognizer, which listens to it.",
        ),
    ] = "",
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Evaluate a run's checkpoint on its validation and test data; or speech by a recognizer."""
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.evaluate import evaluate as evaluate_run
    from jdl.inspect.listening import listen
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find

    set_up_jax()
    trained = restore(find(run, root), best=best)
    print(f"step {trained.step:,}")
    results = listen(trained, restore(find(by, root))) if by else evaluate_run(trained)
    width = max(6, *map(len, results))
    for split, metrics in results.items():
        for name, value in metrics.items():
            print(f"{split:<{width}} {name:<24} {number_text(value, 6)}")
