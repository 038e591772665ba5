"""The learning curve of reinforcement learning: returns by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RETURN = "return"


def draw_returns(lines: list[dict[str, Any]], path: Path) -> bool:
    """Draws the returns in the lines of a log as a PNG, a curve for training and for evaluation.

    For a population the curve is the mean of its members, and the band goes from the lowest to the
    highest. Without returns in the log it draws nothing, and returns False.
    """
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    splits: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        splits.setdefault(line["split"], []).append(line)
    if not sum(_draw_curve(axes, split_lines, split) for split, split_lines in splits.items()):
        return False
    axes.set_xlabel("step")
    axes.set_ylabel("episode return")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True


def _draw_curve(axes: Any, lines: list[dict[str, Any]], split: str) -> bool:
    """Draws the curve of one split; False where it has no returns."""
    names = (RETURN, f"{RETURN}/mean")
    logged = (name for name in names if any(line.get(name) is not None for line in lines))
    name = next(logged, None)
    if name is None:
        return False
    lines = [line for line in lines if line.get(name) is not None]
    steps = [line["step"] for line in lines]
    width = 1.0 if split == "train" else 2.0
    (curve,) = axes.plot(steps, [line[name] for line in lines], label=split, linewidth=width)
    if name != RETURN:
        low, high = ([line[f"{RETURN}/{end}"] for line in lines] for end in ("min", "max"))
        axes.fill_between(steps, low, high, color=curve.get_color(), alpha=0.2, linewidth=0)
    return True
