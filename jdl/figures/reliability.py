"""The reliability diagram: how often a model is right, against how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jdl.metrics import Calibration


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Draws a reliability diagram (Guo et al., 2017) as a PNG, with the rows of each bin below it.

    The bars of a calibrated model end on the diagonal. The gap is what accuracy lacks to the mean
    confidence, or has above it: where bars end below the diagonal, the model is too sure of itself.
    """
    from matplotlib.figure import Figure  # slow to import (1 s)

    rows, accuracy = np.asarray(calibration.weight), np.asarray(calibration.accuracy())
    middle, width = (np.arange(len(rows)) + 0.5) / len(rows), 0.94 / len(rows)
    gap = np.asarray(calibration.mean_confidence()) - accuracy
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(middle, accuracy, width, color="tab:blue", label="accuracy")
    upper.bar(middle, gap, width, accuracy, color="tab:red", alpha=0.4, label="gap to confidence")
    upper.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left")
    upper.set_title(f"expected calibration error {float(calibration.value()):.3f}")
    least = rows[rows > 0].min(initial=1.0) / 2
    lower.set(xlabel="confidence", ylabel="rows", yscale="log", ylim=(least, 2 * rows.max() + 1))
    lower.bar(middle, rows, width, color="gray")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
