"""Objects that a trained detector finds in images of any size: a row each, and drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.boxed_images import Fitted
from jdl.data.loader import DatasetLoader
from jdl.figures.detections import draw_boxes, shown
from jdl.figures.masks import COLORS, name_of_class
from jdl.inspect.fitted import Row, draw_on_files, predict_fitted
from jdl.inspect.restore import TrainedRun

EDGES = ("x0", "y0", "x1", "y1")


def detected_rows(
    trained: TrainedRun, data: DatasetLoader[Any], inputs: Sequence[Path], batch_size: int
) -> list[Row]:
    """The objects found in image files of any size, or in the rows of npz files: a row for each.

    A row has `input`, `label`, `score` and the edges x0, y0, x1, y1 in pixels of the file's own
    image; an image without an object has a row of None. Objects are those that are `shown`, and not
    in the black bars beside the image. Raises `Error` for bytes and floats in one call.
    """
    names, images, found = predict_fitted(trained, data, inputs, batch_size)
    rows: list[Row] = []
    for n, name in enumerate(names):
        objects = [
            _row(found, n, k, images[n], trained.run.labels)
            for k in shown(found["boxes"][n], found["score"][n]).tolist()
        ]
        objects = [row for row in objects if row["x0"] < row["x1"] and row["y0"] < row["y1"]]
        nothing = dict.fromkeys(("label", "score", *EDGES))
        rows += [{"input": name, **row} for row in objects or [nothing]]
    return rows


def _row(
    found: dict[str, np.ndarray],
    n: int,
    k: int,
    image: Fitted,
    labels: Sequence[str],
) -> Row:
    """An object: the kth of image n."""
    label = int(found["label"][n, k])
    edges = image.boxes_before(found["boxes"][n, k].astype(np.float64))
    return {
        "label": name_of_class(label, labels) if labels else label,
        "score": round(float(found["score"][n, k]), 4),
        **{name: round(float(edge), 2) for name, edge in zip(EDGES, edges, strict=True)},
    }


def draw_detected(
    rows: Sequence[Row], inputs: Sequence[Path], folder: Path, labels: Sequence[str] = ()
) -> list[Path]:
    """Draws the rows on the image files that they were found in: photo.boxes.png of photo.jpg.

    A class has the same color in all images. Raises `Error`, before anything is written, if two
    images would have the same file.
    """

    def draw(image: Any, found: Sequence[Row]) -> Any:
        boxes = [
            (
                [row[edge] for edge in EDGES],
                f"{row['label']} {row['score']:.2f}",
                _color(row["label"], labels),
            )
            for row in found
            if row["label"] is not None
        ]
        return draw_boxes(image, boxes)

    return draw_on_files("boxes", draw, rows, inputs, folder)


def _color(label: str | int, labels: Sequence[str]) -> tuple[int, int, int]:
    """The color of a class, which is named in a row or has its number there."""
    k = list(labels).index(str(label)) if label in labels else int(label)
    return COLORS[k % len(COLORS)]
