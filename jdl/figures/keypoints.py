"""Keypoints drawn on images, a color for each (pose estimation)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.figures.detections import SIDE, enlarged, sheet, to_pillow
from jdl.figures.masks import COLORS, name_of_class
from jdl.figures.rows import is_image
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Batch, Predicts, Variables

COLUMNS = {"keypoints", "score"}  # of the predictions
LEAST_SCORE = 0.3  # of the keypoints that are named where they are drawn
SHOWN = 12  # images of the sheet
DOT, RING = 6, 10  # radius in pixels of an image of SIDE, of what is predicted, and of what is true


def is_pose(objective: Any, variables: Variables, spec: Batch) -> bool:
    """Whether the predictions of an objective are keypoints with scores."""
    if not isinstance(objective, Predicts):
        return False
    return jax.eval_shape(objective.predict, variables, spec).keys() >= COLUMNS


def draw_pose(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/keypoints.png: the first images of the evaluation data and their keypoints.

    A dot is where a keypoint was predicted, a ring of the same color where it is; a line joins
    them. For a run of anything but pose estimation it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not {"x", "keypoints"} <= data.spec.keys():
        return []
    if not is_image(data.spec["x"]) or not is_pose(objective, variables, data.spec):
        return []
    rows = predict_all(objective, variables, data, ["x"], limit=SHOWN)
    true = data.dataset.take(np.arange(len(rows["x"])))["keypoints"]
    path = folder / "figures" / "keypoints.png"
    if processes.is_first():
        images = [
            draw_keypoints(to_pillow(x), points, true=truth)
            for x, points, truth in zip(rows["x"], rows["keypoints"], true, strict=True)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet(images).save(path)
    return [path]


def draw_keypoints(
    image: Any,
    points: np.ndarray,
    score: np.ndarray | None = None,
    labels: Sequence[str] = (),
    true: np.ndarray | None = None,
) -> Any:
    """A copy of a Pillow image in RGB with keypoints (K, 2) in pixels; small ones are enlarged.

    With scores (K,), those of at least 0.3 are filled and named, and others are empty. Of the true
    ones (K, 3) those are drawn whose visibility is above 0.
    """
    from PIL import ImageDraw, ImageFont

    drawn, times = enlarged(image)
    pen, unit = ImageDraw.Draw(drawn), max(drawn.size) / SIDE
    font = ImageFont.load_default(size=12 * unit)
    for k, (x, y) in enumerate((points * times).tolist()):
        color, sure = COLORS[k % len(COLORS)], score is None or score[k] >= LEAST_SCORE
        if true is not None and true[k, 2] > 0:
            at = (true[k, :2] * times).tolist()
            pen.circle(at, RING * unit, outline=color, width=round(2 * unit))
            pen.line([x, y, *at], fill=color, width=round(unit))
        pen.circle((x, y), DOT * unit, fill=color if sure else None, outline=color)
        if score is not None and sure:
            text, beside = name_of_class(k, labels), 1.5 * DOT * unit
            fits = x + beside + pen.textlength(text, font=font) <= drawn.width
            place, anchor = (x + beside if fits else x - beside, y), "lm" if fits else "rm"
            pen.text(place, text, "white", font, anchor, stroke_width=unit, stroke_fill="black")
    return drawn
