"""Boxes drawn on images, with their labels and scores (object detection)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.boxes import area, iou_matrix, non_maximum_suppression
from jdl.data.loader import DatasetLoader
from jdl.figures.masks import name_of_class
from jdl.figures.rows import is_image
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Batch, Predicts, Variables

COLUMNS = {"boxes", "label", "score"}  # of the predictions
LEAST_SCORE = 0.3  # of the boxes that are shown
SAME = 0.6  # an IoU above it: boxes of different labels around one object
ROWS, ACROSS = 3, 4  # images of the sheet
SIDE = 360  # pixels of the longer side, at least: smaller images are enlarged
RIGHT, WRONG, MISSED = (0, 150, 60), (215, 30, 30), (30, 90, 230)
LIGHT = 500  # of red, green and blue together, above which black is read better than white

Box = tuple[Sequence[float], str, tuple[int, int, int]]  # its edges, what is written, its color


def is_detector(objective: Any, variables: Variables, spec: Batch) -> bool:
    """Whether the predictions of an objective are boxes with labels and scores."""
    if not isinstance(objective, Predicts):
        return False
    return jax.eval_shape(objective.predict, variables, spec).keys() >= COLUMNS


def shown(boxes: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which of an image's boxes (M, 4) are for people to see: the indices, best first.

    Those of a score of at least 0.3, and of several labels for one object the best.
    """
    sure, one_label = jnp.where(score >= LEAST_SCORE, score, 0), jnp.zeros(len(score), jnp.int32)
    kept = non_maximum_suppression(jnp.asarray(boxes), sure, one_label, SAME, len(score))
    return np.asarray(kept)[np.asarray(kept) >= 0]


def draw_detections(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/detections.png: the first images of the evaluation data, and what is found.

    Green boxes are right, with an IoU of at least 0.5; red ones are wrong; blue ones are of objects
    that were missed. For a run of anything but object detection it draws nothing. Only the first
    process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not {"x", "boxes", "y"} <= data.spec.keys():
        return []
    if not is_image(data.spec["x"]) or not is_detector(objective, variables, data.spec):
        return []
    rows = predict_all(objective, variables, data, ["x"], limit=ROWS * ACROSS)
    true = data.dataset.take(np.arange(len(rows["x"])))
    path = folder / "figures" / "detections.png"
    if processes.is_first():
        images = [
            _drawn_image(
                {name: column[n] for name, column in rows.items()},
                true["boxes"][n],
                true["y"][n],
                run.labels,
            )
            for n in range(len(rows["x"]))
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet(images).save(path)
    return [path]


def draw_boxes(image: Any, boxes: Sequence[Box]) -> Any:
    """A copy of a Pillow image in RGB with boxes drawn on it; small images are enlarged."""
    from PIL import ImageDraw, ImageFont

    drawn, times = enlarged(image)
    pen, unit = ImageDraw.Draw(drawn), max(drawn.size) / SIDE
    font = ImageFont.load_default(size=12 * unit)
    for edges, text, color in boxes:
        place = [edge * times for edge in edges]
        pen.rectangle(place, outline=color, width=round(2 * unit))
        if text:
            *_, width, height = pen.textbbox((0, 0), text, font=font)
            x, y = place[0], max(0, place[1] - height - 2)
            pen.rectangle((x, y, x + width + 2, y + height + 1), fill=color)
            pen.text((x + 1, y), text, fill="black" if sum(color) > LIGHT else "white", font=font)
    return drawn


def enlarged(image: Any) -> tuple[Any, int]:
    """A Pillow image in RGB, at least SIDE pixels long, and how many times larger it is."""
    from PIL import Image

    times = max(1, -(-SIDE // max(image.size)))
    size = image.width * times, image.height * times
    return image.convert("RGB").resize(size, Image.Resampling.BILINEAR), times


def to_pillow(x: np.ndarray) -> Any:
    """The Pillow image of an array (H, W, 1 or 3) from 0 to 1."""
    from PIL import Image

    pixels = np.rint(255 * x.clip(0, 1)).astype(np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def _drawn_image(
    row: dict[str, np.ndarray], true_boxes: np.ndarray, y: np.ndarray, labels: Sequence[str]
) -> Any:
    """An image with what was found in it, and with what was not."""
    kept = shown(row["boxes"], row["score"])
    found, label, score = (row[name][kept] for name in ("boxes", "label", "score"))
    real = (y >= 0) & (area(true_boxes) > 0)
    true_boxes, y = true_boxes[real], y[real]
    hits = (iou_matrix(found, true_boxes) >= 0.5) & (label[:, None] == y[None])

    missed: list[Box] = [(true_boxes[n].tolist(), "", MISSED) for n in np.flatnonzero(~hits.any(0))]
    boxes: list[Box] = [
        (
            found[n].tolist(),
            f"{name_of_class(label[n], labels)} {score[n]:.2f}",
            RIGHT if hits[n].any() else WRONG,
        )
        for n in range(len(found))
    ]
    return draw_boxes(to_pillow(row["x"]), missed + boxes)


def sheet(images: Sequence[Any]) -> Any:
    """Pillow images of one size side by side, in rows of four."""
    from PIL import Image

    width, height = images[0].size
    rows = -(-len(images) // ACROSS)
    across = min(len(images), ACROSS)
    sheet = Image.new("RGB", (across * (width + 6), rows * (height + 6)), "white")
    for n, image in enumerate(images):
        sheet.paste(image, (n % ACROSS * (width + 6), n // ACROSS * (height + 6)))
    return sheet
