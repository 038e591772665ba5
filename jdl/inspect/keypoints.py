"""Keypoints that a trained model finds in images of any size: a row each, and drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.figures.keypoints import draw_keypoints
from jdl.figures.masks import name_of_class
from jdl.inspect.fitted import Row, draw_on_files, predict_fitted
from jdl.inspect.restore import TrainedRun


def keypoint_rows(
    trained: TrainedRun, data: DatasetLoader[Any], inputs: Sequence[Path], batch_size: int
) -> list[Row]:
    """The keypoints of image files of any size, or of the rows of npz files: a row for each.

    A row has `input`, `keypoint`, its name or number, `score`, and x and y in pixels of the file's
    own image, no farther than its edges.
    """
    names, images, found = predict_fitted(trained, data, inputs, batch_size)
    rows: list[Row] = []
    for name, image, points, score in zip(
        names, images, found["keypoints"], found["score"], strict=True
    ):
        before = image.boxes_before(np.tile(points.astype(np.float64), 2))[:, :2]
        rows += [
            {
                "input": name,
                "keypoint": name_of_class(k, trained.run.labels),
                "score": round(float(score[k]), 4),
                "x": round(float(before[k, 0]), 2),
                "y": round(float(before[k, 1]), 2),
            }
            for k in range(len(points))
        ]
    return rows


def draw_keypoint_rows(rows: Sequence[Row], inputs: Sequence[Path], folder: Path) -> list[Path]:
    """Draws the rows on the image files they were found in: photo.keypoints.png of photo.jpg.

    Raises `Error`, before anything is written, if two images would have the same file.
    """

    def draw(image: Any, found: Sequence[Row]) -> Any:
        points = np.asarray([(row["x"], row["y"]) for row in found])
        score = np.asarray([row["score"] for row in found])
        return draw_keypoints(image, points, score, [row["keypoint"] for row in found])

    return draw_on_files("keypoints", draw, rows, inputs, folder)
