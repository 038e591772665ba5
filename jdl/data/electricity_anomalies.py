"""Days of electricity demand, some of them with an anomaly that was put in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.scenes import raw_draws, within
from jdl.data.time_series import DAY, WEEK, electricity_table
from jdl.types import Error

HELD_OUT = 5  # every fifth week is for the test
SHIFTS = (6, 12)  # half-hours by which a day is shifted, least and most
COLUMNS = (0, 2, 3, 4)  # demand, working day, sine and cosine of the time of day

Anomaly = Callable[[np.ndarray, int, dict[str, float]], np.ndarray]


def electricity_anomalies(rate: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Electricity demand with anomalies put in, for anomaly detection: (train, test).

    A row is a day of half-hours from any half-hour on, cut from the demand of Victoria in 2014.
    Columns: x (48, 4), the demand, whether it is a working day, and the sine and cosine of the time
    of day; y, 1 for an anomaly; and kind, 0 or its number. Every fifth week is for the test, and no
    half-hour is in both splits. Training rows are as they were measured. Of the test rows about
    `rate` have one of four anomalies, equally often:

    1. spike: one half-hour is 0.7 to 1.5 GW higher or lower;
    2. flat: the demand stands still for 4 to 8 hours;
    3. shift: the demand is that of 3 to 6 hours earlier or later;
    4. amplitude: the distances from the day's mean are 0.4 to 0.6 or 1.6 to 2.5 times as large.

    The anomaly of row i is a function of (seed, i) alone. The demand is normalized by mean and
    standard deviation of the training split. Fetch it once with `jdl data fetch elecdemand`.
    """
    if not 0 < rate < 1:
        raise Error(f"rate, the share of anomalies in the test, lies between 0 and 1, not {rate}.")
    table = electricity_table()[:, COLUMNS]
    held_out = np.arange(len(table)) // WEEK % HELD_OUT == HELD_OUT - 1
    train, test = _starts(~held_out, 0), _starts(held_out, SHIFTS[1])
    demand = table[:, 0].copy()
    mean, std = demand[~held_out].mean(), demand[~held_out].std()
    table[:, 0] = (demand - mean) / std
    x = table[np.concatenate([train, test])[:, None] + np.arange(DAY)].astype(np.float32)
    kind = np.zeros(len(x), np.int32)
    for row, (number, u) in enumerate(_draws(len(test), rate, seed), len(train)):
        if number:
            kind[row] = number
            day = ANOMALIES[number - 1](demand, test[row - len(train)], u)
            x[row, :, 0] = (day - mean) / std
    data = arrays(("normal", "anomaly"), x=x, y=kind > 0, kind=kind)
    return data.select(np.arange(len(train))), data.select(np.arange(len(train), len(x)))


def _starts(included: np.ndarray, margin: int) -> np.ndarray:
    """The first steps of days that lie, with this margin before and after, in the included ones."""
    total = np.append(0, np.cumsum(included))
    length = DAY + 2 * margin
    return np.flatnonzero(total[length:] - total[:-length] == length) + margin


def _draws(rows: int, rate: float, seed: int) -> list[tuple[int, dict[str, float]]]:
    """For each row the number of its anomaly, or 0, and numbers from 0 to 1 that place it."""
    names = ("any", "kind", "place", "size", "sign")
    raw = raw_draws(rows, len(names), seed, "electricity_anomalies")
    u = within(dict.fromkeys(names, (0.0, 1.0)), raw)
    number = np.where(u["any"] < rate, 1 + (u["kind"] * len(ANOMALIES)).astype(int), 0)
    columns = {name: values.tolist() for name, values in u.items()}
    return [(int(k), {name: columns[name][n] for name in names}) for n, k in enumerate(number)]


def _spike(demand: np.ndarray, start: int, u: dict[str, float]) -> np.ndarray:
    day = demand[start : start + DAY].copy()
    day[int(u["place"] * DAY)] += np.copysign(0.7 + 0.8 * u["size"], u["sign"] - 0.5)
    return day


def _flat(demand: np.ndarray, start: int, u: dict[str, float]) -> np.ndarray:
    day, length = demand[start : start + DAY].copy(), 8 + int(u["size"] * 9)
    first = int(u["place"] * (DAY - length + 1))
    day[first : first + length] = day[first]
    return day


def _shift(demand: np.ndarray, start: int, u: dict[str, float]) -> np.ndarray:
    least, most = SHIFTS
    steps = least + int(u["size"] * (most - least + 1))
    start += steps if u["sign"] < 0.5 else -steps
    return demand[start : start + DAY]


def _amplitude(demand: np.ndarray, start: int, u: dict[str, float]) -> np.ndarray:
    day = demand[start : start + DAY]
    factor = 0.4 + 0.2 * u["size"] if u["sign"] < 0.5 else 1.6 + 0.9 * u["size"]
    return day.mean() + factor * (day - day.mean())


ANOMALIES: tuple[Anomaly, ...] = (_spike, _flat, _shift, _amplitude)
