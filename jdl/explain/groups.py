"""Metrics by group: whether a model serves some groups of rows worse than others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.columns import Column
from jdl.data.loader import DatasetLoader
from jdl.data.look import name_of
from jdl.data.table import TableDataset
from jdl.explain.canvas import save
from jdl.explain.subject import Subject
from jdl.inspect.by_row import metrics_by_row
from jdl.statistics import Interval, bootstrap_interval, mean_difference
from jdl.types import Error

FEWEST = 5  # rows of a group of which an interval is computed
MANY = 1_000  # rows from which the interval is that of the percentiles
MOST = 20  # groups: numbers of more different values are cut at their quartiles


@dataclass(frozen=True)
class Group:
    """The mean of a metric over a group of rows, with its bootstrap interval of 95%."""

    name: str
    values: np.ndarray  # (rows,)
    interval: Interval | None  # None of fewer than five rows

    @property
    def mean(self) -> float:
        """The mean over the group's rows."""
        return float(self.values.mean())


def by_group(values: np.ndarray, groups: Sequence[str] | np.ndarray) -> list[Group]:
    """A metric by group: the mean of `values` (N,) in each of the `groups` (N,), by name.

    Each with a bootstrap confidence interval of the rows.
    """
    names = np.asarray(groups)
    if names.shape != values.shape:
        raise Error(f"There are {len(values)} values, and {len(names)} rows have a group.")
    found = []
    for name in dict.fromkeys(names.tolist()):
        mine = values[names == name]
        found.append(Group(str(name), mine, _interval(mine) if len(mine) >= FEWEST else None))
    return found


def largest_gap(groups: Sequence[Group]) -> tuple[Group, Group, Interval] | None:
    """The groups with the lowest and the highest mean, and the interval of 95% of their difference.

    Of the groups with five rows or more; None where there are not two. The two are chosen by their
    means, so that of many equal groups some gap is found: look whether it is there in other data.
    """
    sized = sorted((group for group in groups if group.interval), key=lambda group: group.mean)
    if len(sized) < 2:
        return None
    low, high = sized[0], sized[-1]
    return low, high, _interval(high.values, low.values, statistic=mean_difference)


def _interval(*samples: np.ndarray, statistic: Any = np.mean) -> Interval:
    method = "percentile" if max(map(len, samples)) >= MANY else "BCa"
    return bootstrap_interval(*samples, statistic=statistic, method=method)


def draw_groups(subject: Subject, path: Path) -> str:
    """Draws the metric of each group with its interval: accuracy, or else the loss."""
    metrics = metrics_by_row(subject.trained, subject.split)
    name = "accuracy" if "accuracy" in metrics else "loss"
    if name not in metrics:
        raise Error("Neither the accuracy nor the loss is a plain mean over the rows.")
    column, names = group_names(subject)
    groups = by_group(metrics[name], names)
    groups.sort(key=lambda group: group.mean)
    _draw(groups, column, name, float(metrics[name].mean()), path)
    said = (
        f"The {name} by {column}, from the lowest to the highest; bars are bootstrap intervals "
        "of 95% over the rows, and the line is the mean of all. (A group whose rows are all right, "
        "or all wrong, has no width, however few they are.)"
    )
    gap = largest_gap(groups)
    if gap is None:
        return said
    low, high, (least, most) = gap
    text = (
        f"{said} The largest gap: {column} {high.name}: {high.mean:.4f}, {column} {low.name}: "
        f"{low.mean:.4f}, a "
        f"difference of {high.mean - low.mean:.4f} (95%: {least:.4f} to {most:.4f})"
    )
    if len(groups) > 2:  # the largest of many gaps is often far from 0 where none is
        return f"{text}, picked among {len(groups)} groups, which the interval does not allow for."
    return f"{text}, too little evidence of a difference." if least <= 0 <= most else f"{text}."


def group_names(subject: Subject) -> tuple[str, np.ndarray]:
    """The column of the groups, and the name of each row's group; `Error` where there is none."""
    if not subject.by:
        try:
            y, _, _ = subject.classified()
        except Error as error:
            raise Error(f"{error} Name a column to group by: --by COLUMN.") from error
        return "class", np.asarray([name_of(int(k), subject.labels) for k in y])
    dataset: Any = subject.data.dataset if isinstance(subject.data, DatasetLoader) else None
    if dataset is None:
        raise Error("Only rows of a dataset are grouped by a column, and these are made otherwise.")
    columns = dataset.source.table.columns if isinstance(dataset, TableDataset) else {}
    if subject.by in columns:
        return subject.by, _texts(columns[subject.by], dataset.ids)
    values = dataset.column(subject.by)
    if values.ndim != 1:
        raise Error(f"The column {subject.by} has {values.shape[1:]} numbers a row, not one.")
    return subject.by, by_value(values)


def _texts(column: Column, rows: np.ndarray) -> np.ndarray:
    """The values of a table's column in these rows, as the names of groups."""
    if column.kind == "category":
        return np.asarray([*column.values, "missing"])[column.data[rows]]
    return by_value(column.data[rows])


def by_value(values: np.ndarray) -> np.ndarray:
    """Numbers as the names of groups; of many different ones, the quartile that each is in."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if values.dtype.kind not in "fiu" or len(np.unique(known)) <= MOST:
        return np.asarray(["missing" if v != v else _text(v) for v in values.tolist()])
    edges = np.unique(np.quantile(known, [0.25, 0.5, 0.75]))  # equal ones are one
    texts = [_text(edge) for edge in edges.tolist()]
    names = np.asarray(
        [
            f"below {texts[0]}",
            *(f"{a} to {b}" for a, b in pairwise(texts)),
            f"from {texts[-1]}",
        ]
    )
    found = names[np.searchsorted(edges, values, side="right").clip(0, len(edges))]
    return np.where(values != values, "missing", found)


def _text(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _draw(groups: Sequence[Group], column: str, metric: str, mean: float, path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6.4, 0.32 * len(groups) + 1.3), layout="constrained")
    axes = figure.subplots()
    for place, group in enumerate(groups):
        if group.interval:
            axes.plot(group.interval, [place, place], color="tab:blue", linewidth=2)
        axes.plot([group.mean], [place], "o", color="tab:blue", markersize=5)
    names = [f"{group.name[:30]} ({len(group.values):,})" for group in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.set_ylim(-0.7, len(groups) - 0.3)
    axes.axvline(mean, color="gray", linestyle="--", linewidth=1)
    axes.set_xlabel(f"{metric} by {column}; rows in brackets")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
