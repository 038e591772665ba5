"""Mean average precision (mAP) of object detection, as COCO defines it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np

from jdl.boxes import iou_matrix
from jdl.metrics.columns import Columns, column
from jdl.metrics.rows import Rows
from jdl.types import Error

COCO = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of a class that count in an image


def mean_average_precision(
    predictions: Columns, batch: Columns, thresholds: Sequence[float] = COCO, target: str = "y"
) -> Rows:
    """Mean average precision (mAP; COCO: Lin et al., 2014), equal to that of pycocotools.

    Of predicted `boxes` (B, M, 4), `label` (B, M) and `score` (B, M), and the columns `boxes`
    (B, T, 4) and `target` (B, T) of the batch; the label -1 is no object. A detection takes the
    true box of its label that it overlaps most, of those that no better one has taken, and is right
    if their IoU reaches the threshold. That is COCO's rule, without crowds (iscrowd); by that of
    Pascal VOC, one whose box is taken is wrong. Average precision is the mean of the precision at
    101 recalls, where each is the greatest at this recall or a higher one; the mean is over the
    `thresholds`, by default 0.5 to 0.95, and over the classes that occur. Exact: see `Rows` for the
    memory.
    """
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise Error(f"Thresholds of the IoU are above 0 and up to 1, not {thresholds}.")
    found = [
        jnp.asarray(column(predictions, n, "predictions")) for n in ("boxes", "label", "score")
    ]
    true = [jnp.asarray(column(batch, name, "batch")) for name in ("boxes", target)]
    for boxes, labels in (found[:2], true):
        if labels.ndim != 2 or boxes.shape != (*labels.shape, 4):
            raise Error(
                f"mean_average_precision compares boxes (B, n, 4) with labels (B, n), but they are "
                f"of shape {boxes.shape} and {labels.shape}."
            )
    function = partial(_mean_average_precision, tuple(thresholds))
    return Rows.of(function, *found, *true, mask=batch.get("mask"))


def _mean_average_precision(
    thresholds: tuple[float, ...],
    boxes: np.ndarray,
    label: np.ndarray,
    score: np.ndarray,
    true_boxes: np.ndarray,
    y: np.ndarray,
) -> float:
    """The mAP of all images; NaN where there is no object."""
    order = np.argsort(-score, axis=1, kind="stable")
    label, score = (np.take_along_axis(x, order, 1) for x in (label, score))
    boxes = np.take_along_axis(boxes, order[..., None], 1).astype(np.float64)
    true_boxes = true_boxes.astype(np.float64)
    precisions = []
    for k in np.unique(y[y >= 0]):
        scores, right = [], []
        for image in range(len(y)):
            found, true = np.flatnonzero(label[image] == k)[:MOST], y[image] == k
            scores.append(score[image, found])
            overlaps = iou_matrix(boxes[image, found], true_boxes[image, true])
            right.append(_right(overlaps, thresholds))
        together = np.concatenate(scores), np.concatenate(right, axis=1)
        precisions.append(_average_precision(*together, int((y == k).sum())))
    return float(np.mean(precisions)) if precisions else float("nan")


def _right(overlaps: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """Which detections, best first, are right at each threshold: (thresholds, D) of (D, T).

    Of true boxes that overlap a detection equally, the last one is taken, as by pycocotools.
    """
    least = np.minimum(thresholds, 1 - 1e-10)
    free = np.ones((len(thresholds), overlaps.shape[1]), bool)
    right = np.zeros((len(thresholds), len(overlaps)), bool)
    if not overlaps.shape[1]:
        return right
    for n, overlap in enumerate(overlaps):
        if overlap.max() < least.min():
            continue
        left = np.where(free, overlap, -1.0)
        best = left.shape[1] - 1 - left[:, ::-1].argmax(1)
        right[:, n] = left[np.arange(len(least)), best] >= least
        free[right[:, n], best[right[:, n]]] = False
    return right


def _average_precision(scores: np.ndarray, right: np.ndarray, objects: int) -> np.ndarray:
    """The average precision at each threshold, of detections (D,) of one class."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[:, order], axis=1)
    precision = hits / np.arange(1, len(scores) + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(precision, ((0, 0), (0, 1)))  # 0 at recalls that are not reached
    places = [np.searchsorted(row / objects, RECALLS) for row in hits]
    return np.asarray([row[place].mean() for row, place in zip(padded, places, strict=True)])
