"""What the figures have in common: grids without ticks, rows with titles, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jdl.figures.rows import show_image


def grid(
    rows: int, columns: int, width: float, height: float, margin: float = 0.0
) -> tuple[Any, Any]:
    """A figure of cells of `width` x `height` inches, and its axes (rows, columns) without ticks.

    `margin` is the place for the titles of rows, on the left.
    """
    from matplotlib.figure import Figure  # slow to import (1 s)

    size = (width * columns + margin, height * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False)
    for axes in places.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    return figure, places


def show_row(axes: Any, image: np.ndarray, title: str) -> None:
    """Shows an image with its title on the left."""
    show_image(axes, image)
    title_row(axes, title)


def title_layer(axes: Any, name: str, *more: str) -> None:
    """The path of a layer as the title of a column of cells: its end, on lines of their own."""
    parts = [part if len(part) <= 20 else f"...{part[-17:]}" for part in name.split("/")[-3:]]
    axes.set_title("\n".join(["/\n".join(parts), *more]), fontsize=7)


def title_row(axes: Any, title: str) -> None:
    """The title of a row of cells, left of its first one."""
    axes.set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")


def pixel_edges(image: np.ndarray) -> tuple[float, float, float, float]:
    """The extent of a picture that lies over an image (H, W, C)."""
    height, width = image.shape[:2]
    return -0.5, width - 0.5, height - 0.5, -0.5


def save(figure: Any, path: Path) -> None:
    """Writes a figure as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
