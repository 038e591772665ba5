"""A map of a density in two dimensions, with the rows of the evaluation."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Batch, Loader, Predicts, Variables

SIDE = 200  # points of the map in each direction
MARGIN = 0.1  # of the range of the rows, around them
MAX_POINTS = 1_000


def draw_density(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/density.png: the density of rows of two numbers, and rows of the evaluation.

    For runs that predict `log_prob`, such as normalizing flows, of rows x (B, 2); for any other it
    draws nothing. Only the first process writes.
    """
    objective, data = run.learner.objective, run.test or run.valid or run.train
    if not isinstance(objective, Predicts) or not _is_plane(data):
        return []
    if "log_prob" not in jax.eval_shape(objective.predict, variables, data.spec):
        return []
    path = folder / "figures" / "density.png"
    points = _rows(data)
    low, high = points.min(0), points.max(0)
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    sides = [np.linspace(low[n], high[n], SIDE, dtype=np.float32) for n in range(2)]
    grid = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
    log_prob = jax.jit(objective.predict)(variables, _batch_of(data, grid))["log_prob"]
    if processes.is_first():
        _draw(points, sides, np.exp(np.asarray(log_prob)).reshape(SIDE, SIDE), path)
    return [path]


def _is_plane(data: Loader) -> bool:
    return "x" in data.spec and data.spec["x"].shape[1:] == (2,)


def _rows(data: Loader) -> np.ndarray:
    """Rows x (N, 2) of the first batch, without padding."""
    batch = data[0]
    real = np.asarray(batch.get("mask", np.ones(data.batch_size, bool))).astype(bool)
    return np.asarray(batch["x"])[real][:MAX_POINTS]


def _batch_of(data: Loader, x: np.ndarray) -> Batch:
    """A batch of these rows, whose other columns are zeros."""
    zeros = {
        name: jnp.zeros((len(x), *column.shape[1:]), column.dtype)
        for name, column in data.spec.items()
        if name not in ("mask", "id")
    }
    return {**zeros, "x": jnp.asarray(x)}


def _draw(points: np.ndarray, sides: list[np.ndarray], density: np.ndarray, path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(*sides, density, cmap="magma", rasterized=True)
    axes.scatter(points[:, 0], points[:, 1], s=2, color="white", alpha=0.4, linewidths=0)
    axes.set(xlabel="first number of a row", ylabel="second")
    figure.colorbar(mesh, label="density")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
