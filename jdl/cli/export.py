"""`jdl export`: a trained run as a folder that predicts without jdl."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from jdl.cli.arguments import Best, Root, RunName


def export(
    run: RunName,
    to: Annotated[Path, tyro.conf.arg(metavar="DIR", help="The new folder.")],
    root: Root = Path("runs"),
    best: Best = False,
    anyway: Annotated[
        bool, tyro.conf.arg(help="Export a run that is not finished, at its newest checkpoint.")
    ] = False,
    format: Annotated[
        Literal["stablehlo", "onnx", "saved-weights"],
        tyro.conf.arg(
            help="For JAX, or for ONNX Runtime, or the weights as a folder of Hugging Face."
        ),
    ] = "stablehlo",
) -> None:
    """Write a folder that predicts without jdl: program, weights, manifest, model card, script."""
    from jdl.cli.startup import set_up_jax
    from jdl.export.folder import export as export_run
    from jdl.store.catalog import find

    set_up_jax()
    print(export_run(find(run, root), to, best=best, anyway=anyway, format=format))
