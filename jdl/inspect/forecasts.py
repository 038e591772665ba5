"""Forecasts of a trained run as rows of a table, a row a step, and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.time_series import ForecastDataset
from jdl.figures.forecasts import PAST, draw_forecast, is_value
from jdl.inspect.masks import distinct_stems


def forecast_rows(
    names: Sequence[str],
    x: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    dataset: ForecastDataset,
    folder: Path | None,
) -> list[dict[str, Any]]:
    """A row for each input and step ahead: `input`, `step` from 1 on, and a column a quantile.

    A point forecast has the column `value` instead. Values are in the unit of the series. With a
    `folder`, each forecast is drawn there after the end of its past, as NAME.forecast.png. Raises
    `Error`, before anything is written, if two inputs would have the same file.
    """
    values = {
        name: dataset.in_unit(column) for name, column in predictions.items() if is_value(name)
    }
    if folder is not None:
        _draw(distinct_stems(names, "forecast"), x, values, dataset, folder)
    if "q0.5" in values:
        values.pop("value")  # the same
    return [
        {"input": name, "step": step + 1}
        | {column: round(float(forecasts[n, step]), 6) for column, forecasts in values.items()}
        for n, name in enumerate(names)
        for step in range(dataset.source.horizon)
    ]


def _draw(
    stems: Sequence[str],
    x: np.ndarray,
    values: Mapping[str, np.ndarray],
    dataset: ForecastDataset,
    folder: Path,
) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    folder.mkdir(parents=True, exist_ok=True)
    length = PAST * dataset.source.horizon
    for n, stem in enumerate(stems):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        past = dataset.in_unit(x[n, -length:, dataset.source.target])
        draw_forecast(axes, past, {name: column[n] for name, column in values.items()})
        axes.set(xlabel="steps from the origin")
        figure.legend(fontsize=8, loc="outside upper center", ncols=4)
        figure.savefig(folder / f"{stem}.forecast.png", dpi=100)
