"""`jdl size`: how large a model is, by layer, and in which forms it would be smaller."""

from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Best, Root, RunName


def size(
    run: RunName,
    evaluate: Annotated[
        bool,
        tyro.conf.arg(help="Also measure the run's metric in each form, without a new training."),
    ] = False,
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Numbers, bytes, zeros and FLOPs of a model by layer, and its size quantized or pruned."""
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.restore import restore
    from jdl.inspect.size import size as measure
    from jdl.store.catalog import find

    set_up_jax()
    folder = find(run, root)
    found = measure(restore(folder, best=best), evaluate)
    print(found)
    figure = folder / "figures" / "size.png"
    found.draw(figure)
    print(f"\n{figure}")
