"""A figure of rows of data as the model gets them: images, or series as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.look import name_of, sequence_text
from jdl.types import Array

ROWS, COLUMNS = 4, 8  # of the grid
LEAST_STEPS = 16  # shorter rows of numbers are a table rather than a series
MOST_LINES = 8  # of one series
MOST_NAMES = 20  # of a sequence of classes


def draw_rows(batch: Mapping[str, np.ndarray], labels: Sequence[str], path: Path) -> Path | None:
    """Draws the first rows of column x as a grid, with their labels y; None if x is no picture.

    Images (H, W, 1 or 3) are shown from the smallest to the largest value of the batch, or from 0
    to 1 where all values are; series (T,) or (T, F) are lines over time.
    """
    x = batch.get("x")
    if x is None or x.dtype.kind != "f" or not len(x) or "edges" in batch:
        return None
    if not (is_image(x) or is_series(x)):
        return None
    from matplotlib.figure import Figure  # slow to import (1 s)

    count = min(len(x), ROWS * COLUMNS if is_image(x) else ROWS * COLUMNS // 2)
    columns = COLUMNS if is_image(x) else COLUMNS // 2
    rows = -(-count // columns)
    figure = Figure(figsize=(9.6, 1.3 * rows + 0.2), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = value_range(x)
    for n, axes in enumerate(places):
        axes.set_axis_off()
        if n < count and is_image(x):
            show_image(axes, x[n], low, high)
        elif n < count:
            axes.plot(x[n].reshape(len(x[n]), -1)[:, :MOST_LINES], linewidth=0.8)
        if n < count:
            axes.set_title(label_text(batch, n, labels), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def value_range(x: np.ndarray) -> tuple[float, float]:
    """What is drawn in black and in white: 0 and 1, or the smallest and the largest value."""
    return (0.0, 1.0) if 0 <= x.min() <= x.max() <= 1 else (float(x.min()), float(x.max()))


def show_image(axes: Any, x: np.ndarray, low: float = 0.0, high: float = 1.0) -> None:
    """Shows an image (H, W, 1 or 3) on axes of matplotlib, from `low` in black to `high`."""
    pixels = (x.astype(np.float64) - low) / ((high - low) or 1)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels.clip(0, 1)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def label_text(batch: Mapping[str, np.ndarray], row: int, labels: Sequence[str]) -> str:
    """The label y of a row in words: a class, several, a sequence of them, or a number."""
    if "y" not in batch or batch["y"].ndim > 2:
        return ""
    y = batch["y"][row]
    if not y.ndim:
        return name_of(int(y), labels) if y.dtype.kind in "iu" else f"{y:.4g}"
    if labels and len(y) == len(labels) and 0 <= y.min() <= y.max() <= 1:  # several, or soft ones
        likely = np.argsort(-y, kind="stable")[:3].tolist()
        names = [name_of(k, labels) + (f" {y[k]:.2g}" if y[k] < 1 else "") for k in likely if y[k]]
        return ", ".join(names)
    if not labels or y.dtype.kind not in "iu":
        return ""
    length = int(batch["y_length"][row]) if "y_length" in batch else len(y)
    text = sequence_text(y[: min(length, MOST_NAMES)].tolist(), labels)
    return f"{text} ..." if length > MOST_NAMES else text


def is_image(x: np.ndarray | Array) -> bool:
    """Whether rows are images (H, W, 1 or 3)."""
    return x.ndim == 4 and x.shape[-1] in (1, 3)


def is_series(x: np.ndarray) -> bool:
    """Whether rows are series (T,) or (T, F), long enough to be drawn."""
    return x.ndim in (2, 3) and x.shape[1] >= LEAST_STEPS
