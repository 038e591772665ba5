"""Time series forecasting: datasets of sliding windows, split by time so that no future leaks."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from jdl.data.columns import Column
from jdl.data.dataset import Dataset
from jdl.data.fetch import dataset_folder
from jdl.data.series_table import (
    Several,
    column_number,
    encode_series,
    series_columns,
    several,
)
from jdl.types import Bounds, Error

HALF_HOURS = 17_520  # of the year 2014
DAY, WEEK = 48, 336  # in half-hours


@dataclass(frozen=True, eq=False)
class ForecastWindows:
    """A source of sliding windows of a time series, one per forecast origin, cut on demand.

    Columns: x (context, F), the inputs before the origin; y (horizon,), the target from the origin
    on, NaN where it is missing; and naive (horizon,), the seasonal naive forecast: the target one
    season earlier, or as many seasons as lead back before the origin, to a value that is known.
    """

    inputs: np.ndarray  # (T, F) of float32
    targets: np.ndarray  # (T,) of float32; NaN where missing
    context: int
    horizon: int
    season: int
    mean: float  # y * std + mean is in the unit of the series
    std: float
    naive_error: float  # of the seasonal naive forecast in the training split, in that unit
    target: int  # which of the inputs the targets are
    feature_names: tuple[str, ...]  # of the inputs

    @property
    def start(self) -> int:
        """The forecast origin of row 0: the first with a whole context and a season before it."""
        return max(self.context, self.season)

    def __len__(self) -> int:
        return max(0, len(self.targets) - self.start - self.horizon + 1)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""
        time = self.start + rows[:, None]
        ahead = np.arange(self.horizon)
        return {
            "x": self.inputs[time + np.arange(-self.context, 0)],
            "y": self.targets[time + ahead],
            "naive": self._seasonal[time + ahead - self.season * (1 + ahead // self.season)],
        }

    @cached_property
    def _seasonal(self) -> np.ndarray:
        """The targets, a missing one as that of the season before, and at last as the mean."""
        filled = self.targets.copy()
        for time in np.flatnonzero(np.isnan(filled)):
            filled[time] = filled[time - self.season] if time >= self.season else 0
        return filled

    @property
    def nbytes(self) -> int:
        """The size of all windows in bytes, if all were cut at once."""
        return 4 * len(self) * (self.context * self.inputs.shape[1] + 2 * self.horizon)

    @property
    def labels(self) -> tuple[str, ...]:
        """Empty: the targets are numbers, not classes."""
        return ()

    @cached_property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column."""
        x, y = (
            (float(np.nanmin(values)), float(np.nanmax(values)))
            for values in (self.inputs, self.targets)
        )
        return {"x": x, "y": y, "naive": y}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the series and of the windows' lengths."""
        cut = f"{self.inputs.shape} {self.context} {self.horizon} {self.season}\n"
        return hashlib.sha256(
            cut.encode() + self.inputs.tobytes() + self.targets.tobytes()
        ).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class ForecastDataset(Dataset):
    """A dataset of windows of a time series, normalized: y * std + mean is in the series' unit."""

    source: ForecastWindows

    @property
    def mean(self) -> float:
        """The mean of the target in the training split."""
        return self.source.mean

    @property
    def std(self) -> float:
        """The standard deviation of the target in the training split."""
        return self.source.std

    @property
    def naive_error(self) -> float:
        """The mean absolute error of the seasonal naive forecast in the training split.

        It is the unit of the mean absolute scaled error (MASE); the errors are |y(t) - y(t -
        season)| of all training steps with a season before them.
        """
        return self.source.naive_error

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of each column of x: "demand", "demand missing", "weather=rain"."""
        return self.source.feature_names

    def in_unit(self, values: np.ndarray) -> np.ndarray:
        """Values of the target, or forecasts of it, in the unit of the series."""
        return np.asarray(values, np.float64) * self.std + self.mean


Splits = tuple[ForecastDataset, ForecastDataset, ForecastDataset]


def forecast_windows(
    table: Any,
    context: int,
    horizon: int,
    season: int,
    target: int | str = 0,
    future_covariates: Several = (),
    train: float = 0.7,
    valid: float = 0.15,
    categorical: Several = (),
    drop: Several = (),
    missing: Sequence[str] = (),
) -> Splits:
    """Datasets for time series forecasting, of sliding windows: (train, valid, test) in this order.

    `table` (T, F) has one row per time step: an array, or a data frame of pandas or Polars, whose
    columns can be given by name too. Times in the index of a pandas frame must ascend in even
    steps; they are not an input. From `context` steps of all columns, `horizon` steps
    of column `target` are forecast, at every origin; `ForecastWindows` describes the columns of the
    datasets. A window belongs to the split in which all its steps to forecast lie; windows across a
    border belong to none, so no split reads a value later than its own end. `train` and `valid` are
    the fractions of the time steps. Every column is normalized by its mean and standard deviation
    in the training split; the datasets' attributes `mean` and `std` invert that for the target, and
    `naive_error` is the unit of the MASE.
    `future_covariates` are columns known in advance, such as the calendar: in x they stand
    `horizon` steps early, so that the end of x has them for the steps to forecast; the context must
    be at least as long as the horizon.
    Columns of text, and those in `categorical`, are categories, in x in one-hot encoding. A missing
    number is the mean, 0 in x, where a further column is 1 if the training split has missing ones
    too; y is NaN where the target is missing, which the forecasting objectives leave out of their
    losses and their own metrics. A window without any known y is left out. `drop` are columns to
    leave out, `missing` texts that stand for a missing value. `feature_names` are the columns of x.
    """
    columns, names = series_columns(table, categorical, drop, missing)
    of_target, early = _check(columns, names, context, horizon, season, target, future_covariates)
    values = columns[of_target].data
    borders = _borders(len(values), train, valid)
    encoding, inputs = encode_series(list(columns.values()), borders[1])
    known_early = np.isin(encoding.sources, [columns[n].name for n in early])
    # The values that roll around the end are read by no window.
    inputs[:, known_early] = np.roll(inputs[:, known_early], -horizon, axis=0)
    place = encoding.sources.index(columns[of_target].name)
    mean, std = encoding.numbers[place].mean, encoding.numbers[place].std
    source = ForecastWindows(
        inputs,
        ((values - mean) / std).astype(np.float32),
        context,
        horizon,
        season,
        mean,
        std,
        _naive_error(values[: borders[1]], season),
        place,
        encoding.feature_names,
    )
    return _split_by_time(source, borders)


def _borders(steps: int, train: float, valid: float) -> list[int]:
    """Where the splits begin and end."""
    if not 0 < train < train + valid < 1:
        raise Error(
            "train and valid must be fractions above 0 that leave some steps for the test, not "
            f"{train} and {valid}."
        )
    return [round(steps * fraction) for fraction in (0, train, train + valid, 1)]


def _naive_error(values: np.ndarray, season: int) -> float:
    """The mean absolute error of the value a season before, where both are known; 0 without any."""
    errors = np.abs(values[season:] - values[:-season])
    known = errors[~np.isnan(errors)]
    return float(known.mean()) if len(known) else 0.0


def _split_by_time(source: ForecastWindows, borders: Sequence[int]) -> Splits:
    """For each pair of neighbouring borders, the windows whose steps to forecast lie between.

    Windows without any target that is known are left out.
    """
    times = source.start + np.arange(len(source), dtype=np.int32)
    known = np.concatenate([[0], np.cumsum(~np.isnan(source.targets))])
    some = known[times + source.horizon] > known[times]
    rows = [
        np.flatnonzero(some & (start <= times) & (times + source.horizon <= end)).astype(np.int32)
        for start, end in pairwise(borders)
    ]
    if not all(map(len, rows)):
        counts = ", ".join(str(len(split)) for split in rows)
        raise Error(
            f"{borders[-1]} steps are too few: the splits would have {counts} windows with a "
            f"horizon of {source.horizon} steps. Shorten the context, the horizon or the "
            "season."
        )
    train, valid, test = (ForecastDataset(source, split) for split in rows)
    return train, valid, test


def electricity(context: int = WEEK, horizon: int = DAY) -> Splits:
    """The electricity demand of Victoria in 2014, by half-hours: (train, valid, test).

    Windows as `forecast_windows` makes them. x has the demand (GW), the temperature (degrees
    Celsius) and, as future covariates, whether it is a working day and the sine and cosine of the
    time of day and of the time of week. The naive forecast is the demand one week before. Source:
    the Australian Energy Market Operator, through R's fpp2 (Hyndman). Fetch it once with
    `jdl data fetch elecdemand`.
    """
    table = electricity_table()
    known = range(2, table.shape[1])
    return forecast_windows(table, context, horizon, season=WEEK, future_covariates=known)


def electricity_table() -> np.ndarray:
    """The half-hours of `electricity` (17520, 7): demand, temperature, working day, and calendar.

    The calendar is the sine and cosine of the time of day and of the time of week.
    """
    # Loading a pickle may execute code, so its two blocks of numbers are read at their offsets;
    # the checksum guarantees that it is the file with these offsets.
    path = dataset_folder("elecdemand") / "elecdemand.pkl.compress"
    content = lzma.decompress(path.read_bytes())
    demand, temperature = np.frombuffer(content, "<f8", 2 * HALF_HOURS, offset=200).reshape(
        2, HALF_HOURS
    )
    _, working_day = np.frombuffer(content, "<i8", 2 * HALF_HOURS, offset=280_650).reshape(
        2, HALF_HOURS
    )
    angles = [2 * np.pi * np.arange(HALF_HOURS) / period for period in (DAY, WEEK)]
    calendar = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.stack([demand, temperature, working_day, *calendar], axis=1)


def _check(
    columns: Mapping[int, Column],
    names: Sequence[Any],
    context: int,
    horizon: int,
    season: int,
    target: int | str,
    covariates: Several,
) -> tuple[int, list[int]]:
    """The numbers of the target and of the future covariates in the table."""
    if min(context, horizon, season) < 1:
        raise Error(
            "context, horizon and season must be at least 1; given: "
            f"{context}, {horizon} and {season}."
        )
    of_target = column_number(target, names)
    early = [column_number(column, names) for column in several(covariates)]
    for number, role in (*((n, "a future covariate") for n in early), (of_target, "the target")):
        if number not in columns:
            raise Error(
                f"Column {names[number]} is {role} and cannot be dropped: name another by "
                f"{'target' if number == of_target else 'future_covariates'}, or take it out of "
                "drop."
            )
    if columns[of_target].kind == "category":
        raise Error(f"Column {target} has categories, and a target must be numbers.")
    if of_target in early:
        raise Error(
            f"Column {target} is the target, which cannot be known in advance: take it out of "
            "future_covariates."
        )
    if early and context < horizon:
        raise Error(
            f"future_covariates for {horizon} steps to forecast do not fit into a context of "
            f"{context}: choose a context of at least {horizon}."
        )
    return of_target, early
