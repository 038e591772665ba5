"""Time series as forecasts to be made: split by time, so that nothing is judged by a future that it has seen."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset
from jdl.data.fetch import fetched
from jdl.types import Bounds, Error

HALF_HOURS = 17_520  # of the year 2014
DAY, WEEK = 48, 336  # in half-hours


@dataclass(frozen=True, eq=False)
class Windows:
    """A source of forecasts, cut out of the series when they are asked for: one for each time there is.

    Columns: x (context, F), the inputs before that time; y (horizon,), the target from then on; and naive (horizon,),
    the target one season earlier, or the fewest seasons that lead back before that time.
    """

    inputs: np.ndarray  # (T, F) of float32
    targets: np.ndarray  # (T,) of float32
    context: int
    horizon: int
    season: int
    mean: float  # y * std + mean is in the series' own unit
    std: float

    @property
    def first(self) -> int:
        """The time of row 0, the first that has both a context and a season behind it."""
        return max(self.context, self.season)

    def __len__(self) -> int:
        return max(0, len(self.targets) - self.first - self.horizon + 1)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""
        time = self.first + rows[:, None]
        ahead = np.arange(self.horizon)
        return {
            "x": self.inputs[time + np.arange(-self.context, 0)],
            "y": self.targets[time + ahead],
            "naive": self.targets[time + ahead - self.season * (1 + ahead // self.season)],
        }

    @property
    def nbytes(self) -> int:
        """The bytes of all columns, were they cut out at once."""
        return 4 * len(self) * (self.context * self.inputs.shape[1] + 2 * self.horizon)

    @property
    def labels(self) -> tuple[str, ...]:
        """None: the targets are numbers."""
        return ()

    @cached_property
    def bounds(self) -> Bounds:
        """The least and greatest value of each column."""
        x, y = (
            (float(values.min()), float(values.max())) for values in (self.inputs, self.targets)
        )
        return {"x": x, "y": y, "naive": y}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the series and of how it is cut."""
        cut = f"{self.inputs.shape} {self.context} {self.horizon} {self.season}\n"
        return hashlib.sha256(
            cut.encode() + self.inputs.tobytes() + self.targets.tobytes()
        ).hexdigest()


def windows(
    table: Any,
    context: int,
    horizon: int,
    season: int,
    target: int = 0,
    ahead: Sequence[int] = (),
    train: float = 0.7,
    valid: float = 0.15,
) -> tuple[Dataset, Dataset, Dataset]:
    """Forecasts of column `target` of a table (T, F), one row a step of time: (train, valid, test), in this order.

    From `context` steps of all columns, `horizon` steps of the target, at every time there is; `Windows` says which
    columns come of it. A forecast is in the part that all of its steps lie in, those across a border are in none, and
    no part reads a value later than its own end. Every column is normalised by its mean and standard deviation in
    the training part; `train.source.mean` and `.std` lead back. The columns `ahead` are known in advance (calendar):
    in x they stand `horizon` steps early, so that the end of x has them for the steps to be forecast.
    """
    values = _checked(table, context, horizon, season, target, ahead)
    if not 0 < train < train + valid < 1:
        raise Error(
            f"train and valid are shares above 0 that leave some for the test, and not {train} and {valid}."
        )
    borders = [round(len(values) * share) for share in (0, train, train + valid, 1)]
    mean, std = (statistic(values[: borders[1]], axis=0) for statistic in (np.mean, np.std))
    if not std.all():
        raise Error(
            f"Column {int(std.argmin())} has one value alone in the training part: leave it out."
        )
    normal = ((values - mean) / std).astype(np.float32)
    inputs = normal.copy()
    inputs[:, list(ahead)] = np.roll(
        normal[:, list(ahead)], -horizon, axis=0
    )  # no row reads what is rolled around
    source = Windows(
        inputs, normal[:, target], context, horizon, season, float(mean[target]), float(std[target])
    )
    times = source.first + np.arange(len(source), dtype=np.int32)
    parts = [
        np.flatnonzero((start <= times) & (times + horizon <= end)).astype(np.int32)
        for start, end in pairwise(borders)
    ]
    if not all(map(len, parts)):
        raise Error(
            f"{len(values)} steps are too few: the parts would have {', '.join(str(len(part)) for part in parts)} "
            f"forecasts of {horizon} steps after {source.first}. Shorten the context, the horizon or the season."
        )
    first, second, third = (Dataset(source, part) for part in parts)
    return first, second, third


def electricity(context: int = WEEK, horizon: int = DAY) -> tuple[Dataset, Dataset, Dataset]:
    """The electricity demand of Victoria in 2014, by half-hours: (train, valid, test), as `windows` makes them.

    x has demand (GW), temperature (degrees Celsius), and, known ahead, whether it is a working day and the sine and
    cosine of the time of day and of the time of week. The naive forecast is the demand of a week before. Source: the
    Australian Energy Market Operator, through R's fpp2 (Hyndman).
    """
    # The file is a pickle, which may run anything when it is loaded, so its two blocks of numbers are read where they
    # lie: its sum says that it is that file and no other.
    content = lzma.decompress((fetched("elecdemand") / "elecdemand.pkl.compress").read_bytes())
    demand, temperature = np.frombuffer(content, "<f8", 2 * HALF_HOURS, offset=200).reshape(
        2, HALF_HOURS
    )
    _, working_day = np.frombuffer(content, "<i8", 2 * HALF_HOURS, offset=280_650).reshape(
        2, HALF_HOURS
    )
    angles = [2 * np.pi * np.arange(HALF_HOURS) / period for period in (DAY, WEEK)]
    calendar = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    table = np.stack([demand, temperature, working_day, *calendar], axis=1)
    return windows(table, context, horizon, season=WEEK, ahead=range(2, table.shape[1]))


def _checked(
    table: Any, context: int, horizon: int, season: int, target: int, ahead: Sequence[int]
) -> np.ndarray:
    values = np.asarray(table)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise Error(
            f"A table of numbers (T, F) is needed, one row a step of time, not {values.dtype} {values.shape}."
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise Error(
            f"Column {column} has a NaN or infinite value, first in row {row}: fill such gaps."
        )
    if min(context, horizon, season) < 1:
        raise Error(
            f"context, horizon and season are 1 at least; given: {context}, {horizon} and {season}."
        )
    if not all(0 <= column < values.shape[1] for column in (target, *ahead)):
        raise Error(
            f"The table has the columns 0 to {values.shape[1] - 1}; given: {target} and ahead {list(ahead)}."
        )
    if target in ahead:
        raise Error(
            f"Column {target} is the target: were it known ahead, there would be nothing to forecast."
        )
    return values.astype(np.float64)
