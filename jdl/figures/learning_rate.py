"""The curve of a learning rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def draw_learning_rate(
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    suggestion: float,
    name: str,
    path: Path,
) -> None:
    """Draws losses and smoothed losses by learning rate, and the suggested rate, as a PNG."""
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="tab:blue", alpha=0.3, linewidth=1, label="loss of the step")
    axes.plot(rates, smooth, color="tab:blue", linewidth=2, label="smoothed")
    axes.axvline(suggestion, color="tab:orange", label=f"suggested: {suggestion:.1e}")
    highest = 1.5 * max(smooth[: max(1, len(smooth) // 2)])
    axes.set(xscale="log", xlabel=name, ylabel="loss", ylim=(min(0.0, *losses), highest))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
