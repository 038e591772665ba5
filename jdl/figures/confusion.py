"""The figure of a confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def draw_confusion(counts: np.ndarray, labels: tuple[str, ...], path: Path) -> None:
    """Draws a confusion matrix (K, K) as a PNG: rows are the true classes, columns the predicted.

    The colour of a cell is its share of the row; up to 20 classes the counts are written into it.
    """
    from matplotlib.figure import Figure  # slow to import (1 s)

    classes = len(counts)
    side = max(4.0, 0.55 * classes + 1.5)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = labels or tuple(str(k) for k in range(classes))
    axes.set_xticks(range(classes), names, rotation=45, ha="right")
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{counts.trace():,} of {counts.sum():,} correct")
    if classes <= 20:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = axes.text(column, row, f"{counts[row, column]}", ha="center", va="center")
            text.set(color=color, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
