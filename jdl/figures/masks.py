"""Masks of semantic segmentation over their images, a color for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.figures.rows import is_image
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Batch, Predicts, Variables

SHOWN = 6  # images in the figure
OPACITY = 0.55  # of the colors over an image
UNKNOWN = (128, 128, 128)
COLORS = (  # of the classes, round and round: neighbors are far apart
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
    (255, 221, 87),
    (0, 92, 69),
    (255, 152, 150),
)


def draw_segmentation(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/segmentation.png: the first images of the evaluation data, truth, prediction.

    For a run that predicts a label for each pixel of an image; for any other it draws nothing. Only
    the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    spec = data.spec
    if not {"x", "y"} <= spec.keys() or spec["y"].shape != spec["x"].shape[:3]:
        return []
    if not is_segmentation(spec, jax.eval_shape(objective.predict, variables, spec)):
        return []
    rows = predict_all(objective, variables, data, ["x", "y"], limit=SHOWN)
    path = folder / "figures" / "segmentation.png"
    if processes.is_first():
        _draw(rows, run.labels, path)
    return [path]


def is_segmentation(spec: Batch, predictions: Mapping[str, Any]) -> bool:
    """Whether the predictions have a label (B, H, W) for each pixel of images x."""
    if "x" not in spec or not is_image(spec["x"]) or "label" not in predictions:
        return False
    return predictions["label"].shape[1:] == spec["x"].shape[1:3]


def colors(classes: int, labels: Sequence[str] = ()) -> np.ndarray:
    """The color of each class (K, 3), bytes; black for one that is called "background"."""
    named = [*labels[:classes], *[""] * (classes - len(labels))]
    others = iter(COLORS * -(-classes // len(COLORS)))
    chosen = [(0, 0, 0) if name.lower() == "background" else next(others) for name in named]
    return np.asarray(chosen, np.uint8)


def colored(label: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """Labels (..., H, W) as colors (..., H, W, 3), bytes; gray where the label is -1."""
    classes = max(int(label.max(initial=0)) + 1, len(labels))
    table = [*colors(classes, labels), UNKNOWN]  # whose last entry is that of -1
    return np.asarray(table, np.uint8)[label]


def overlay(image: np.ndarray, label: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """An image (H, W, 1 or 3) from 0 to 1 under the colors of its labels (H, W): (H, W, 3), bytes.

    A class that is called "background" is not colored.
    """
    gray = np.broadcast_to(255 * image.clip(0, 1), (*image.shape[:2], 3))
    painted = colored(label, labels)
    mixed = (1 - OPACITY) * gray + OPACITY * painted
    background = [k for k, name in enumerate(labels) if name.lower() == "background"]
    return np.rint(np.where(np.isin(label, background)[..., None], gray, mixed)).astype(np.uint8)


def name_of_class(k: int, labels: Sequence[str]) -> str:
    """The name of class k, or its number."""
    return labels[k] if k < len(labels) else str(k)


def _draw(rows: dict[str, np.ndarray], labels: Sequence[str], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    count = len(rows["x"])
    pictures = {
        "image": _shown(rows["x"]),
        "truth": colored(rows["y"], labels),
        "prediction": colored(rows["label"], labels),
    }
    figure = Figure(figsize=(1.7 * max(count, 2), 6.2), layout="constrained")
    places = figure.subplots(3, count, squeeze=False)
    for row, (name, images) in zip(places, pictures.items(), strict=True):
        row[0].set_ylabel(name)
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
    _legend(figure, np.unique(np.concatenate([rows["y"], rows["label"]])), labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _shown(x: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 1 or 3), which may be normalized, from 0 to 1; gray ones (N, H, W)."""
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
    x = (x.astype(np.float64) - low) / (high - low)
    return x[..., 0] if x.shape[-1] == 1 else x


def _legend(figure: Any, present: np.ndarray, labels: Sequence[str]) -> None:
    """The colors of the classes that are present, below the pictures."""
    from matplotlib.patches import Patch

    names = ["unknown" if k < 0 else name_of_class(k, labels) for k in present.tolist()]
    patches = [
        Patch(color=tuple((color / 255).tolist()), label=name)
        for name, color in zip(names, colored(present, labels), strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=6)
