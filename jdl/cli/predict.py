"""`jdl predict`: the model's predictions for new inputs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jdl.cli.arguments import Best, Root
from jdl.errors import Error

if TYPE_CHECKING:
    from jdl.inspect.batch import Answers
    from jdl.inspect.restore import TrainedRun


Model = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN",
        help="A run's folder, or its name, digest, name/digest or name/digest/seedK; or a folder "
        "that `jdl export` wrote.",
    ),
]
Inputs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="INPUT",
        help="Image or sound files, npz files with an array x of one row per input, text files "
        "with one input per line, CSV, JSON lines or Parquet files, or what else the run's own "
        "data are read from; or folders of these.",
    ),
]
Out = Annotated[
    Path,
    tyro.conf.arg(
        help="A file that ends in .parquet, .csv or .jsonl: it gets the answers to inputs of any "
        "size, and the same command goes on after a kill. Or the folder to write pictures to: of "
        "masks (semantic segmentation) NAME.mask.png and NAME.overlay.png, of detected objects "
        "NAME.boxes.png, of keypoints NAME.keypoints.png, of forecasts NAME.forecast.png; or "
        "sounds, of what is said in line 3 of a text NAME-3.wav."
    ),
]
Format = Annotated[
    Literal["csv", "json"] | None,
    tyro.conf.arg(
        help="Output format; by default CSV, but of a tagger the tagged text: in color in a "
        "terminal, else a word and its tag a line. Answers and ranked lists are in color in a "
        "terminal, too."
    ),
]
SkipBad = Annotated[
    bool,
    tyro.conf.arg(
        help="With a file as --out: leave rows out that cannot be read, or whose answer is not "
        "finite, and list them in a file beside it."
    ),
]


def predict(
    run: Model,
    inputs: Inputs,
    out: Out = Path(),
    root: Root = Path("runs"),
    best: Best = False,
    format: Format = None,
    skip_bad: SkipBad = False,
) -> None:
    """Predict labels, values, texts, sounds, tags, answers, items, masks, boxes or keypoints."""
    if not inputs:
        raise Error(
            "Name at least one input: an image, a sound, an npz file with an array x, a text file, "
            "a table, or questions as JSON of the form of SQuAD."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.export.model import is_exported, load_exported
    from jdl.inspect.batch import ENDINGS, check_finite, check_output, predict_files
    from jdl.inspect.pieces import all_files
    from jdl.inspect.predict import joins_rows
    from jdl.inspect.predict import predict as predict_rows
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find
    from jdl.store.checkpoints import state_digest

    many = out.suffix in ENDINGS
    if many:
        check_output(out)
    elif out.suffix and not out.is_dir():
        raise Error(
            f"--out {out} is neither a file that ends in {', '.join(ENDINGS)}, which gets the "
            "answers, nor a folder for pictures, whose name has no ending."
        )
    set_up_jax()
    if is_exported(Path(run)):
        exported = load_exported(Path(run))
        answer, digest, whole = exported.predict, exported.digest, False
    else:
        trained = restore(find(run, root), best=best)
        if not many:
            _predict_few(trained, list(all_files(inputs)), out, format)
            return
        answer, digest = partial(predict_rows, trained), state_digest(trained.state)
        whole = joins_rows(trained)
    if many:
        _predict_many(
            out, partial(predict_files, answer, inputs, out, digest, skip_bad, whole=whole)
        )
    else:
        rows = answer(list(all_files(inputs)))
        check_finite(rows)
        print(_text(rows, format), end="")


def _predict_many(out: Path, predict: Callable[..., Answers]) -> None:
    """Writes the answers to inputs of any size to a file, and shows how fast."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    began = time.perf_counter()
    columns = BarColumn(), TextColumn("{task.completed:,} rows  {task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling ...", total=None)

        def show(rows: int) -> None:
            speed = f"{rows / (time.perf_counter() - began):,.0f} rows/s"
            bar.update(task, completed=rows, description=speed)

        found = predict(progress=show)
    print(f"{out}: {found.rows:,} rows")
    if found.bad:
        for text in found.first_bad:
            print(text, file=sys.stderr)
        print(f"{found.bad:,} rows were left out: {out}.bad.txt lists them", file=sys.stderr)


def _predict_few(
    trained: TrainedRun, inputs: Sequence[Path], out: Path, format: str | None
) -> None:
    """Prints the predictions for inputs that fit into memory, and draws those that are pictures."""
    from jdl.inspect.batch import check_finite
    from jdl.inspect.detections import draw_detected
    from jdl.inspect.keypoints import draw_keypoint_rows
    from jdl.inspect.predict import predict

    rows = predict(trained, inputs, out=out)
    check_finite(rows)
    drawn = draw_detected(rows, inputs, out, trained.run.labels) if "x0" in rows[0] else []
    drawn += draw_keypoint_rows(rows, inputs, out) if "keypoint" in rows[0] else []
    print(_text(rows, format), end="")
    for path in drawn:
        print(path, file=sys.stderr)
    if not out.exists():
        text = f"Nothing is written to {out}: these answers are no pictures. --out {out}.csv gets"
        print(f"{text} them in a file.", file=sys.stderr)


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
