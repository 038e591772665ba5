"""`jdl predict`: the model's predictions for new inputs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

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
            "files with one input per line, CSV, JSON lines or Parquet files, or what else the "
            "run's own data are read from.",
        ),
    ],
    out: Annotated[
        Path,
        tyro.conf.arg(
            help="The folder to write pictures to: of masks (semantic segmentation) NAME.mask.png "
            "and NAME.overlay.png, of detected objects NAME.boxes.png, of keypoints "
            "NAME.keypoints.png, of forecasts NAME.forecast.png; or sounds, of what is said in "
            "line 3 of a text NAME-3.wav."
        ),
    ] = Path(),
    root: Root = Path("runs"),
    best: Best = False,
    format: Annotated[
        Literal["csv", "json"] | None,
        tyro.conf.arg(
            help="Output format; by default CSV, but of a tagger the tagged text: in color in a "
            "terminal, else a word and its tag a line. Answers and ranked lists are in color in a "
            "terminal, too."
        ),
    ] = None,
) -> None:
    """Predict labels, values, texts, sounds, tags, answers, items, masks, boxes or keypoints."""
    if not inputs:
        raise Error(
            "Name at least one input: an image, a sound, an npz file with an array x, a text file, "
            "a table, or questions as JSON of the form of SQuAD."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.detections import draw_detected
    from jdl.inspect.keypoints import draw_keypoint_rows
    from jdl.inspect.predict import predict as predict_inputs
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find

    set_up_jax()
    trained = restore(find(run, root), best=best)
    rows = predict_inputs(trained, inputs, out=out)
    drawn = draw_detected(rows, inputs, out, trained.run.labels) if "x0" in rows[0] else []
    drawn += draw_keypoint_rows(rows, inputs, out) if "keypoint" in rows[0] else []
    print(_text(rows, format), end="")
    for path in drawn:
        print(path, file=sys.stderr)


def _text(rows: list[dict[str, Any]], format: str | None) -> str:
    """The rows as they are printed."""
    from jdl.inspect import answers, retrieval, tagged
    from jdl.inspect.predict import to_csv, to_json

    in_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if format is None and "tags" in rows[0]:
        return tagged.to_color(rows) if in_color else tagged.to_columns(rows)
    if format is None and in_color and "answer" in rows[0]:
        return answers.to_color(rows)
    if format is None and in_color and "match_1" in rows[0]:
        return retrieval.to_color(rows)
    return to_json(rows) if format == "json" else to_csv(rows)
