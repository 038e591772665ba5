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
    axes.set(xscale="log", xlabel=name, ylabel="loss", ylim=loss_limits(smooth))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def loss_limits(smooth: Sequence[float]) -> tuple[float, float]:
    """The axis of the losses: from the least, or 0, to well above the first half of the test.

    Losses may be negative, as a log-likelihood is; those at the end may be huge.
    """
    lowest, highest = min(0.0, *smooth), max(smooth[: max(1, len(smooth) // 2)])
    return lowest, highest + 0.5 * (highest - lowest or 1.0)
