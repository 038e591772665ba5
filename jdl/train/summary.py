"""The summary at the end of a run: metrics, figures, folder and time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jdl.figures.confusion import draw_confusion
from jdl.figures.reliability import draw_reliability
from jdl.figures.returns import draw_returns
from jdl.metrics import Calibration, Confusion
from jdl.numbers import number_text
from jdl.store import log
from jdl.store.record import read_record
from jdl.train.result import Result, numbers


def summarize(result: Result, labels: tuple[str, ...] = ()) -> str:
    """Draws the final figures, and returns the text to print."""
    lines = log.read(result.folder)
    figures = [*result.figures, *_draw_metrics(result, labels)]
    returns = result.folder / "figures" / "return.png"
    figures += [returns] if draw_returns(lines, returns) else []
    text = [""]
    for split, values in numbers(result).items():
        text += [f"{split:<6} {name:<24} {number_text(value)}" for name, value in values.items()]
    if result.steps:
        share = 100 * result.data_seconds / result.seconds
        speed = f"{result.steps:,} steps in {result.seconds:.1f} s"
        text += [f"\n{speed}; waited {share:.2f}% of it for data"]
    text += _best_step(result)
    if skipped := sum(line.get("skipped") == 1 for line in lines):
        text += [f"{skipped:,} steps were skipped, because their numbers were not finite"]
    return "\n".join([*text, *map(str, figures), str(result.folder)])


def _best_step(result: Result) -> list[str]:
    """A line where another step than that of the metrics was the best, as after early stopping.

    By a validation set alone: to choose the step by the test set would bias its metrics.
    """
    last, best = int(result.state.step), result.best_step
    if best is None or best == last or "valid" not in result.metrics:
        return []
    by = read_record(result.folder)["best"]
    return [
        f"These metrics are of step {last:,}; by {by}, step {best:,} was best: "
        f"jdl evaluate {result.folder} --best"
    ]


def _draw_metrics(result: Result, labels: tuple[str, ...]) -> list[Path]:
    """The figures of those metrics that have one, by split: confusion matrix, reliability."""
    paths = []
    for split, metrics in result.metrics.items():
        for name, metric in metrics.items():
            file = f"{split}_{name}.png".replace("/", "_")  # of heads: "head/confusion"
            path = result.folder / "figures" / file
            if isinstance(metric, Confusion):
                names = labels if len(labels) == len(metric.counts) else ()
                draw_confusion(np.asarray(metric.counts), names, path)
            elif isinstance(metric, Calibration):
                draw_reliability(metric, path)
            else:
                continue
            paths.append(path)
    return paths
