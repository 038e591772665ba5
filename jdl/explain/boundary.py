"""The decision boundary of a model of two numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.explain.canvas import save
from jdl.explain.score import outputs
from jdl.explain.subject import Subject
from jdl.figures.embedding import scatter
from jdl.types import Error, Objective, Predicts, Variables

POINTS = 200  # along a side
MOST_ROWS = 1_000  # that are shown


def decision_grid(
    objective: Objective, variables: Variables, x: np.ndarray, points: int = POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The decision regions of a model of two features: the predicted class on a grid around x.

    The coordinates (points,) of both axes, and the class (points, points) or the predicted number,
    by the second axis and the first. Raises `Error` unless x is (N, 2).
    """
    if x.ndim != 2 or x.shape[1] != 2 or x.dtype.kind != "f":
        raise Error("A decision boundary is drawn of two features, x (N, 2), and no more.")
    low, high = x.min(0), x.max(0)
    margin = 0.1 * (high - low)
    first, second = np.linspace(low - margin, high + margin, points, dtype=np.float32).T
    grid = np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)
    batch = {"x": jnp.asarray(grid)}
    if isinstance(objective, Predicts):
        found = jax.jit(objective.predict)(variables, batch)
        if "label" in found:
            return first, second, np.asarray(found["label"]).reshape(points, points)
    numbers = jax.jit(outputs, static_argnums=0)(objective, variables, batch)
    return first, second, np.asarray(numbers[:, 0]).reshape(points, points)


def draw_boundary(subject: Subject, path: Path) -> str:
    """Draws the decision regions, and rows of the evaluation data with their classes."""
    spec = subject.data.spec
    if "x" not in spec or spec["x"].ndim != 2 or spec["x"].shape[1] != 2:
        raise Error("A decision boundary is drawn of two features, x (N, 2), and no more.")
    if set(spec) & {"codes", "edges"}:
        raise Error("The model reads other columns besides the two features.")
    rows = subject.sample(MOST_ROWS)
    batch = subject.take(rows)
    first, second, grid = decision_grid(*subject.merged, batch["x"])
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    extent = (first[0], first[-1], second[0], second[-1])
    shown: dict[str, Any] = {
        "extent": extent,
        "origin": "lower",
        "aspect": "auto",
        "interpolation": "nearest",
    }
    classes_known = grid.dtype.kind in "iu" and "y" in batch and batch["y"].ndim == 1
    if classes_known:
        classes = np.union1d(grid, batch["y"])
        colors = np.asarray([_color(int(k)) for k in classes.tolist()])
        axes.imshow(0.65 + 0.35 * colors[np.searchsorted(classes, grid)], **shown)
        scatter(axes, batch["x"], batch["y"], subject.labels)
        figure.legend(loc="outside right upper", markerscale=2)
    else:
        figure.colorbar(axes.imshow(grid, cmap="viridis", **shown), label="predicted")
        axes.scatter(batch["x"][:, 0], batch["x"][:, 1], s=6, color="black")
    names = subject.feature_names() or ("first feature", "second feature")
    axes.set(xlabel=names[0], ylabel=names[1], xlim=extent[:2], ylim=extent[2:])
    save(figure, path)
    if classes_known:
        return (
            f"The background is the class that is predicted at each place, and the dots are "
            f"{len(rows):,} rows with their true classes: a dot on another color is an error."
        )
    return (
        "The background is the first number that the model gives at each place, and the dots are "
        f"{len(rows):,} rows, without their targets."
    )


def _color(k: int) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(f"C{k % 10}")
