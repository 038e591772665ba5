"""The closing summary of a run: its metrics, its figures, where everything lies and where the time went."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jdl.metrics import Confusion, scalars
from jdl.store import log
from jdl.figures.returns import draw_returns
from jdl.train.fit import Result
from jdl.store.folder import write_json


def summarise(result: Result, labels: tuple[str, ...] = ()) -> str:
    """Writes summary.json and figures, and returns the text to be shown."""
    numbers = {split: scalars(metrics) for split, metrics in result.metrics.items()}
    if result.scores:
        numbers["score"] = result.scores
    figures = [*result.figures]
    for split, metrics in result.metrics.items():
        for name, metric in metrics.items():
            if isinstance(metric, Confusion):
                figures.append(result.folder / "figures" / f"{split}_{name}.png")
                draw_confusion(np.asarray(metric.counts), labels, figures[-1])
    read = log.read(result.folder)
    curve = result.folder / "figures" / "return.png"
    figures += [curve] if draw_returns(read, curve) else []
    write_json(
        result.folder / "summary.json",
        {
            "step": int(result.state.step),
            "metrics": numbers,
            "seconds": result.seconds,
            "waited": result.waited,
        },
    )
    lines = [""]
    for split, values in numbers.items():
        lines += [f"{split:<6} {name:<24} {value:.4f}" for name, value in values.items()]
    if result.steps:
        share = 100 * result.waited / result.seconds
        lines += [
            f"\n{result.steps:,} steps in {result.seconds:.1f} s; waited {share:.2f}% of it for data"
        ]
    if left_out := sum(line.get("skipped") == 1 for line in read):
        lines += [f"{left_out:,} steps were left out, whose numbers were not finite"]
    lines += [f"{figure}" for figure in figures] + [f"{result.folder}"]
    return "\n".join(lines)


def draw_confusion(counts: np.ndarray, labels: tuple[str, ...], path: Path) -> None:
    """The confusion matrix (K, K) as a PNG: rows are the true classes, shades the share of their row."""
    from matplotlib.figure import Figure  # a second of import that only the end of a run needs

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
    axes.set_title(f"{counts.trace():,} of {counts.sum():,} right")
    if classes <= 20:
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                color=shade,
                fontsize=8,
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
