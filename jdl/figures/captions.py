"""A sheet of images with the sentences that a model writes about them (image captioning)."""

from __future__ import annotations

import textwrap
from pathlib import Path

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.figures.retrieval import RIGHT, WRONG, is_text
from jdl.figures.rows import is_image
from jdl.objectives.predict import map_rows
from jdl.parallel import processes
from jdl.run import Run
from jdl.sampling import decode_until_end
from jdl.types import Predicts, Variables

ROWS, COLUMNS = 3, 4
WIDE = 26  # letters of a line


def draw_captions(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/captions.png: the first images of the evaluation data, and their captions.

    In green are captions equal to the column y; below others, in red, is the right one. For data
    other than images with texts y, and predictions that are no tokens, it draws nothing. Only the
    first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    spec, tokenizer = data.spec, run.tokenizer
    if tokenizer is None or not {"x", "y"} <= spec.keys():
        return []
    if not is_image(spec["x"]) or not is_text(spec["y"], tokenizer):
        return []
    if "tokens" not in jax.eval_shape(objective.predict, variables, spec):
        return []
    rows = map_rows(objective.predict, variables, data, ["x", "y"], limit=ROWS * COLUMNS)
    written, right = (
        [decode_until_end(tokenizer, tokens) for tokens in rows[name]] for name in ("tokens", "y")
    )
    path = folder / "figures" / "captions.png"
    if processes.is_first():
        _draw(rows["x"], written, right, path)
    return [path]


def _draw(images: np.ndarray, written: list[str], right: list[str], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(2.4 * COLUMNS, 2.5 * ROWS), layout="constrained")
    places = figure.subplots(ROWS, COLUMNS).ravel()
    for n, axes in enumerate(places):
        axes.set_axis_off()
        if n >= len(images):
            continue
        image, wrong = images[n], written[n] != right[n]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
        text = textwrap.fill(written[n], WIDE)
        if wrong:
            text += "\n" + textwrap.fill(f"(is {right[n]})", WIDE)
        axes.set_title(text.replace("$", r"\$"), fontsize=8, color=WRONG if wrong else RIGHT)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
