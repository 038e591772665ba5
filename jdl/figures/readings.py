"""A sheet of lines of text as images, with what the model reads (optical character recognition)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.look import sequence_text
from jdl.figures.rows import is_image
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.types import Predicts, Run, Variables

ROWS, COLUMNS = 12, 2


def draw_readings(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/readings.png: the first lines of the evaluation data, and what is read there.

    In red are wrong readings, with the right one. For a run of anything but images of different
    `width` and sequences of labels, it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    spec = data.spec
    if "width" not in spec or "y" not in spec or not run.labels or not is_image(spec["x"]):
        return []
    if not {"labels", "length"} <= jax.eval_shape(objective.predict, variables, spec).keys():
        return []
    columns = [name for name in ("x", "width", "y", "y_length") if name in spec]
    lines = predict_all(objective, variables, data, columns, limit=ROWS * COLUMNS)
    path = folder / "figures" / "readings.png"
    if processes.is_first():
        _draw(lines, run.labels, path)
    return [path]


def _draw(lines: dict[str, np.ndarray], labels: tuple[str, ...], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(9.6, 0.65 * ROWS), layout="constrained")
    places = figure.subplots(ROWS, COLUMNS).ravel()
    for n, axes in enumerate(places):
        axes.set_axis_off()
        if n >= len(lines["x"]):
            continue
        length = lines["y_length"][n] if "y_length" in lines else None
        right = sequence_text(lines["y"][n][:length].tolist(), labels)
        read = sequence_text(lines["labels"][n][: lines["length"][n]].tolist(), labels)
        image = lines["x"][n][:, : lines["width"][n]]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        axes.set_xlim(0, lines["x"].shape[2])
        wrong = read != right
        title = f"{read}  (is {right})" if wrong else read
        axes.set_title(title, loc="left", fontsize=9, color="tab:red" if wrong else "black")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
