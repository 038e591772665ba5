"""The curves of a report: each metric by step, downsampled so that no peak is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from jdl.report.groups import Group
from jdl.report.results import metrics_of, splits_of

POINTS = 60_000  # of all curves of a page
MOST, FEWEST = 1_000, 60  # points of a curve
DIGITS = 6  # significant, of the values on the page


@dataclass(frozen=True)
class Curve:
    """A metric of a run by step; a value that was not finite is NaN."""

    run: str  # what the page calls it
    group: str
    split: str
    metric: str
    steps: np.ndarray
    values: np.ndarray
    is_mean: bool = False  # over the runs of the group

    def json(self, points: int) -> dict[str, Any]:
        """The curve as the page reads it, of so many points at most."""
        return {
            "run": self.run,
            "group": self.group,
            "split": self.split,
            "metric": self.metric,
            "mean": self.is_mean,
            **points_json(self.steps, self.values, points),
        }


def points_json(steps: np.ndarray, values: np.ndarray, points: int) -> dict[str, list[Any]]:
    """Points as the page reads them, so many at most; null is no finite value."""
    steps, values = min_max(steps, values, points)
    shown = (float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values)
    return {"x": steps.tolist(), "y": list(shown)}


def min_max(steps: np.ndarray, values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Min-max downsampling of (N,) values to `points` at most: what is drawn looks the same.

    Of each of points/2 stretches of equal length the smallest and the largest value stay, where
    they are; the first and the last value stay too, and a value that is not finite for each stretch
    that has one.
    """
    if len(values) <= points:
        return steps, values
    edges = np.linspace(0, len(values), max(2, points // 2), dtype=int)
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf)
    high = np.where(finite, values, -np.inf)
    kept = {0, len(values) - 1}
    for start, end in pairwise(edges):
        part = slice(start, end)
        if finite[part].all():
            kept |= {start + int(low[part].argmin()), start + int(high[part].argmax())}
        else:  # the gap, and the largest beside it
            kept |= {start + int(finite[part].argmin()), start + int(high[part].argmax())}
    order = np.array(sorted(kept))
    return steps[order], values[order]


def series(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[list, list]]:
    """Steps and values by (split, metric), of the lines of a run's metrics."""
    found: dict[tuple[str, str], tuple[list, list]] = {}
    for line in lines:
        for metric, value in line.items():
            if metric in ("step", "split") or not isinstance(value, float | int | None):
                continue
            steps, values = found.setdefault((line["split"], metric), ([], []))
            steps.append(line["step"])
            values.append(np.nan if value is None else float(value))
    return found


def curves(groups: Sequence[Group], means: bool = True) -> list[Curve]:
    """The curves of all runs; and of each group the means of those that are finished.

    A mean is of two runs or more, with the same steps.
    """
    found = []
    for group in groups:
        together: dict[tuple[str, str], list[Curve]] = {}
        finished: dict[tuple[str, str], list[Curve]] = {}
        for run in group.runs:
            for key, (steps, values) in series(run.lines).items():
                place = (np.array(steps), np.array(values))
                curve = Curve(f"seed {run.seed}", group.name, *key, *place)
                together.setdefault(key, []).append(curve)
                if run.status == "finished":
                    finished.setdefault(key, []).append(curve)
        for key, many in together.items():
            found += [*many, *(_mean(finished.get(key, [])) if means else [])]
    return found


def _mean(many: Sequence[Curve]) -> list[Curve]:
    """The mean of curves at the same steps; nothing of one, or where steps differ."""
    if len(many) < 2 or not all(np.array_equal(many[0].steps, one.steps) for one in many):
        return []
    first, mean = many[0], np.mean([one.values for one in many], 0)
    name = f"mean of {len(many)} seeds"
    return [Curve(name, first.group, first.split, first.metric, first.steps, mean, True)]


def curves_json(groups: Sequence[Group], live: str = "") -> dict[str, Any]:
    """What the page draws: groups, metrics in their order, and curves.

    A live page has a version instead, and its curves come as events.
    """
    found = curves(groups, means=not live)
    points = min(MOST, max(FEWEST, POINTS // max(1, len(found))))
    shown = metric_order(groups)
    return {
        "live": live,
        "groups": [group.name for group in groups],
        "metrics": shown[:2],
        "more": shown[2:],
        "curves": [] if live else [curve.json(points) for curve in found],
    }


def metric_order(groups: Sequence[Group]) -> list[str]:
    """All metrics: the loss and what chooses the best checkpoint, then the others."""
    best = [run.entry.metric for group in groups for run in group.runs]
    names = [name for split in splits_of(groups) for name in metrics_of(groups, split)]
    names += [name for group in groups for run in group.runs for name in run.final("train")]
    names += [n for g in groups for run in g.runs for _, n in series(run.lines[:50])]
    present = dict.fromkeys(names)
    return list(dict.fromkeys([name for name in ("loss", *best) if name in present] + names))
