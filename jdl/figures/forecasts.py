"""Forecasts of a time series with their intervals, beside what came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.time_series import ForecastDataset
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Predicts, Variables

ROWS, COLUMNS = 3, 2
PAST = 2  # how many horizons of the past are drawn, at most


def draw_forecasts(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/forecasts.png: forecasts of the evaluation data, in the unit of the series.

    For runs that forecast windows of `jdl.data.forecast_windows`, from origins that are spread
    evenly over the split; for any other run it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    if not isinstance(data.dataset, ForecastDataset):
        return []
    if not is_forecast(data.dataset, jax.eval_shape(objective.predict, variables, data.spec)):
        return []
    count = min(ROWS * COLUMNS, len(data.dataset))
    chosen = data.dataset.select(np.linspace(0, len(data.dataset) - 1, count).astype(int))
    predictions = predict_all(objective, variables, chosen.batches(count))
    path = folder / "figures" / "forecasts.png"
    if processes.is_first():
        _draw(chosen, predictions, path)
    return [path]


def is_forecast(dataset: Any, predictions: Mapping[str, Any]) -> bool:
    """Whether these are predictions (N, horizon) of windows of a time series."""
    if not isinstance(dataset, ForecastDataset):
        return False
    shapes = {column.shape[1:] for name, column in predictions.items() if is_value(name)}
    return shapes == {(dataset.source.horizon,)}


def is_value(name: str) -> bool:
    """Whether a column of predictions has values of the series: `value`, or quantiles, q0.05."""
    return name == "value" or name[:3] == "q0."


def draw_forecast(
    axes: Any,
    past: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    future: np.ndarray | None = None,
    naive: np.ndarray | None = None,
) -> None:
    """Draws one forecast: the past (T,), the median, intervals (horizon,) and what came, if known.

    Steps count from the origin. Each interval lies between two quantiles that are equally far
    from the two ends.
    """
    levels = sorted((name for name in predictions if name[:3] == "q0."), key=lambda q: float(q[1:]))
    ahead = np.arange(len(next(iter(predictions.values()))))
    axes.plot(np.arange(-len(past), 0), past, color="black", linewidth=0.8)
    pairs = zip(levels[: len(levels) // 2], reversed(levels), strict=False)
    for n, (low, high) in enumerate(pairs):
        share = f"{float(high[1:]) - float(low[1:]):.0%} interval"
        band = predictions[low], predictions[high]
        axes.fill_between(ahead, *band, color="tab:blue", alpha=0.2 + 0.1 * n, lw=0, label=share)
    if naive is not None:
        axes.plot(ahead, naive, color="tab:gray", linewidth=0.8, linestyle=":", label="naive")
    if "value" in predictions:
        axes.plot(ahead, predictions["value"], color="tab:blue", linewidth=1.2, label="forecast")
    if future is not None:
        axes.plot(ahead, future, color="black", linewidth=1.2, label="what came")
    axes.axvline(-0.5, color="lightgray", linewidth=0.8, zorder=0)
    axes.margins(x=0)


def _draw(chosen: ForecastDataset, predictions: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    source, columns = chosen.source, chosen.columns
    length = min(source.context, PAST * source.horizon)
    figure = Figure(figsize=(9.6, 2 * ROWS), layout="constrained")
    places = figure.subplots(ROWS, COLUMNS, squeeze=False).ravel()
    for n, axes in enumerate(places):
        if n >= len(chosen):
            axes.set_axis_off()
            continue
        origin = source.start + int(chosen.ids[n])
        past, future, naive = (
            chosen.in_unit(part)
            for part in (
                source.targets[origin - length : origin],
                columns["y"][n],
                columns["naive"][n],
            )
        )
        values = {name: chosen.in_unit(c[n]) for name, c in predictions.items() if is_value(name)}
        draw_forecast(axes, past, values, future, naive)
        axes.set_title(f"from step {origin:,}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
