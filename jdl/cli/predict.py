"""`jdl predict`: the model's predictions for new inputs."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from jdl.cli.arguments import Best, Root, RunName
from jdl.errors import Error


def predict(
    run: RunName,
    inputs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="INPUT",
            help="Image or sound files, npz files with an array x of one row per input, text "
            "files with one input per line, or CSV, JSON lines or Parquet files.",
        ),
    ],
    root: Root = Path("runs"),
    best: Best = False,
    format: Annotated[Literal["csv", "json"], tyro.conf.arg(help="Output format.")] = "csv",
) -> None:
    """Predict labels and probabilities, values or texts for images, sounds, arrays or tables."""
    if not inputs:
        raise Error(
            "Name at least one input: an image, a sound, an npz file with an array x, a text file "
            "or a table."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.predict import predict as predict_inputs
    from jdl.inspect.predict import to_csv, to_json
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find

    set_up_jax()
    rows = predict_inputs(restore(find(run, root), best=best), inputs)
    print(to_csv(rows) if format == "csv" else to_json(rows), end="")
