"""Writes tests/golden/detection.npz: boxes, what pycocotools scores them, what torchvision keeps.

The scenes are crowded: duplicates, equal scores, labels that are found but never there, images
without objects or without detections, and one with more than 100 detections of a class. It needs
pycocotools and torchvision, which the tests do not:

    python scripts/golden_detection.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

IMAGES, MOST, FOUND, CLASSES, SIDE = 24, 8, 130, 5, 64

rng = np.random.default_rng(0)


def random_boxes(*shape):
    """Boxes of whole pixels (..., 4)."""
    corner, sides = rng.integers(0, SIDE - 20, (*shape, 2)), rng.integers(4, 20, (*shape, 2))
    return np.concatenate([corner, corner + sides], -1).astype(np.int16)


def with_sides(box):
    """x, y, width and height, as COCO has boxes."""
    x0, y0, x1, y1 = map(int, box)
    return [x0, y0, x1 - x0, y1 - y0]


count = rng.integers(0, MOST + 1, IMAGES)
count[3] = 0
true_boxes = random_boxes(IMAGES, MOST)
y = rng.integers(0, CLASSES - 1, (IMAGES, MOST), np.int8)  # the last class never occurs
true_boxes[:, 1], y[:, 1] = true_boxes[:, 0], y[:, 0]  # twice the same
y = np.where(np.arange(MOST) < count[:, None], y, -1).astype(np.int8)

found = rng.integers(0, 24, IMAGES)
found[5], found[7] = 0, FOUND
of = rng.integers(0, MOST, (IMAGES, FOUND))
near = np.take_along_axis(true_boxes, of[..., None], 1) + rng.integers(-1, 2, (IMAGES, FOUND, 4))
near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
guessed = rng.random((IMAGES, FOUND)) < 0.4
boxes = np.where(guessed[..., None], random_boxes(IMAGES, FOUND), near).astype(np.int16)
label = np.where(guessed, rng.integers(0, CLASSES, of.shape), np.take_along_axis(y, of, 1))
label[7] = y[7, 0] = 0
label = np.where(np.arange(FOUND) < found[:, None], label, -1).astype(np.int8)
score = (rng.integers(1, 40, of.shape) / 40).astype(np.float32)

truth = COCO()
truth.dataset = {
    "images": [{"id": n} for n in range(IMAGES)],
    "categories": [{"id": k} for k in range(CLASSES)],
    "annotations": [
        {"id": 1 + n * MOST + k, "image_id": n, "category_id": int(y[n, k]), "iscrowd": 0}
        | {"bbox": with_sides(box), "area": float(np.prod(with_sides(box)[2:]))}
        for n in range(IMAGES)
        for k, box in enumerate(true_boxes[n])
        if y[n, k] >= 0
    ],
}
truth.createIndex()
detections = [
    {"image_id": n, "category_id": int(label[n, k]), "score": float(score[n, k])}
    | {"bbox": with_sides(boxes[n, k])}
    for n in range(IMAGES)
    for k in range(FOUND)
    if label[n, k] >= 0
]
evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()

crowd = random_boxes(4, 80)
crowd_score = rng.permuted(np.tile(np.arange(1, 81, dtype=np.float32) / 80, (4, 1)), axis=1)
crowd_label = rng.integers(0, 3, (4, 80), np.int8)
kept = np.full((4, 80), -1, np.int16)
for n in range(4):
    tensors = (torch.tensor(a[n]) for a in (crowd.astype(np.float32), crowd_score, crowd_label))
    stays = batched_nms(*tensors, 0.41).numpy()
    kept[n, : len(stays)] = stays

path = Path(__file__).parents[1] / "tests" / "golden" / "detection.npz"
np.savez_compressed(
    path,
    boxes=boxes, label=label, score=score, true_boxes=true_boxes, y=y,
    map=evaluation.stats[:3],  # at 0.5 to 0.95, at 0.5, at 0.75
    crowd=crowd, crowd_score=crowd_score, crowd_label=crowd_label, kept=kept,
)  # fmt: skip
versions = ", ".join(f"{name} {version(name)}" for name in ("pycocotools", "torchvision"))
print(f"{path.name}: {path.stat().st_size:,} bytes, {versions}")
