"""The memory of one chip by part, for one plan or for several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def unit_of(value: float) -> tuple[str, float]:
    """GB, or MB of less than one: the unit of a table of bytes, and its size."""
    return ("GB", 1e9) if value >= 1e9 else ("MB", 1e6)


def draw_memory(
    title: str, parts: Mapping[str, Mapping[str, int]], capacity: float | None, path: Path
) -> None:
    """Draws a stacked bar of bytes for each plan, and a line at the memory of a chip, as a PNG."""
    from matplotlib.figure import Figure  # slow to import (1 s)

    largest = max(sum(counts.values()) for counts in parts.values())
    unit, size = unit_of(largest)
    figure = Figure(figsize=(8, 1.9 + 0.4 * len(parts)), layout="constrained")
    axes = figure.subplots()
    starts = dict.fromkeys(parts, 0.0)
    for part in next(iter(parts.values())):
        widths = [counts[part] / size for counts in parts.values()]
        axes.barh(list(parts), widths, left=list(starts.values()), label=part)
        starts = {name: starts[name] + counts[part] / size for name, counts in parts.items()}
    if capacity and capacity < 5 * largest:  # else the bars would be too small to see
        axes.axvline(capacity / size, color="black", linestyle="--", label="a chip's memory")
    elif capacity:
        title += f"; a chip has {capacity / 1e9:.1f} GB"
    axes.set(xlabel=f"{unit} on one chip", title=title)
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
