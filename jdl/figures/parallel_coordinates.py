"""Parallel coordinates of hyperparameters, with their importance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether values are numbers, and not categories."""
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def draw_parallel_coordinates(
    columns: Mapping[str, Sequence[Any]],
    scores: Sequence[float],
    name: str,
    low: bool,
    log: Collection[str],
    importance: Mapping[str, float],
    path: Path,
    title: str = "",
) -> None:
    """Draws parallel coordinates (Inselberg, 1985) of trials, as a PNG.

    A line goes through the values of each trial, the darker the better its score. `low`: whether
    the lowest score is the best. `log`: the columns of a logarithmic axis. The importance of each
    field, where it is known, stands at its axis.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure  # slow to import (1 s)

    shown = {**columns, name: scores}
    figure = Figure(figsize=(1.6 + 1.5 * len(shown), 4), layout="constrained")
    axes = figure.subplots()
    heights = np.stack([_heights(values, field in log) for field, values in shown.items()])
    norm = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1)
    colors = colormaps["viridis" if low else "viridis_r"]
    for n in np.argsort(scores)[:: -1 if low else 1]:  # the best on top
        axes.plot(heights[:, n], color=colors(norm(scores[n])), linewidth=1.6, alpha=0.9)
    for x, (field, values) in enumerate(shown.items()):
        axes.axvline(x, color="0.4", linewidth=0.8, zorder=0)
        for height, text in _ticks(values, field in log):
            box = {"facecolor": "white", "alpha": 0.8, "pad": 1, "edgecolor": "none"}
            axes.text(x + 0.03, height, text, fontsize=8, va="center", bbox=box)
        share = f"\nimportance {importance[field]:.0%}" if field in importance else ""
        axes.annotate(f"{field}{share}", (x, 1.08), ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(-0.2, len(shown) - 0.6), ylim=(-0.05, 1.25))
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _heights(values: Sequence[Any], log: bool) -> np.ndarray:
    """Values as heights from 0 to 1: numbers by size, categories in even steps."""
    numbers = np.asarray(values if is_numeric(values) else _codes(values), np.float64)
    numbers = np.log(numbers) if log else numbers
    span = float(np.ptp(numbers))
    return (numbers - numbers.min()) / span if span else np.full(len(numbers), 0.5)


def _codes(values: Sequence[Any]) -> list[int]:
    order = list(dict.fromkeys(map(str, values)))
    return [order.index(str(one)) for one in values]


def _ticks(values: Sequence[Any], log: bool) -> list[tuple[float, str]]:
    """The heights and texts at an axis: the ends and the middle of numbers, all categories."""
    heights = _heights(values, log)
    if not is_numeric(values):
        return list(dict(zip(heights.tolist(), map(str, values), strict=True)).items())
    low, high = float(min(values)), float(max(values))
    middle = (low * high) ** 0.5 if log else (low + high) / 2
    shown = {0.0: low, 0.5: middle, 1.0: high} if high > low else {0.5: low}
    return [(height, f"{number:.3g}") for height, number in shown.items()]
