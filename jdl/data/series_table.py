"""Tables of time series: arrays and data frames as numbers, one row per time step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jdl.types import Error

NUMBERS = "biuf"  # the kinds of NumPy dtypes that are numbers


def series_table(table: Any) -> tuple[np.ndarray, list[Any]]:
    """The numbers (T, F) of a table, in 64 bits, and its columns' names: those of a frame, or 0...

    Raises `Error` for text and dates, for numbers that are missing, and where the index of a pandas
    frame has times that do not ascend in even steps.
    """
    frame = hasattr(table, "columns") and hasattr(table, "dtypes")  # of pandas or Polars
    values, names = _frame(table) if frame else _array(table)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        is_nan = bool(np.isnan(values[row, column]))
        what = "a NaN" if is_nan else "an infinite value"
        cure = _cure(table, names[column], is_nan) if frame else ""
        raise Error(
            f"Column {names[column]} has {what}, first in row {row}: replace such values{cure}."
        )
    return values, names


def _cure(frame: Any, name: Any, is_nan: bool) -> str:
    """How a frame's missing values are replaced; those of the first rows have none before them."""
    if not hasattr(frame, "ffill"):  # of Polars
        return ', as frame.fill_nan(None).fill_null(strategy="forward") does by the past alone'
    if not is_nan:
        return "; frame.replace([np.inf, -np.inf], np.nan) makes them missing"
    return (
        ", as frame.ffill() does by the past alone, and frame.interpolate() by both sides of a "
        "gap; a column of 0 and 1 more can tell the model where, "
        f"frame[{name!r}].isna().astype(int)"
    )


def column_number(column: Any, names: Sequence[Any]) -> int:
    """The number of a column that is given by its name, or where none has that, by its number."""
    if column in names:
        return names.index(column)
    if isinstance(column, int | np.integer) and 0 <= column < len(names):
        return int(column)
    if names == list(range(len(names))):
        raise Error(f"The table has the columns 0 to {len(names) - 1}, and no column {column!r}.")
    raise Error(
        f"The frame has no column {column!r}, but {', '.join(map(str, names))}, and their numbers, "
        f"0 to {len(names) - 1}."
    )


def _array(table: Any) -> tuple[np.ndarray, list[Any]]:
    values = np.asarray(table)
    if values.ndim != 2 or values.dtype.kind not in NUMBERS:
        raise Error(
            "forecast_windows takes a table of numbers (T, F), one row per time step, not "
            f"{values.dtype} {values.shape}."
        )
    return values.astype(np.float64), list(range(values.shape[1]))


def _frame(frame: Any) -> tuple[np.ndarray, list[Any]]:
    names = list(frame.columns)
    if len(set(names)) < len(names):
        raise Error("Two columns of the frame have the same name: rename one of them.")
    _check_times(getattr(frame, "index", None))
    return np.stack([_numbers(frame[name], name) for name in names], axis=1), names


def _numbers(column: Any, name: Any) -> np.ndarray:
    """The numbers of a frame's column; what is missing is NaN."""
    kind = getattr(column.dtype, "kind", None)  # Polars's types have none
    kind = kind or column.to_numpy().dtype.kind
    if kind not in NUMBERS:
        cure = (
            "encode it as numbers, such as pandas.get_dummies(frame, columns=[{!r}], dtype=float)"
        )
        if kind in "mM":
            cure = "make it the index of a pandas frame, frame.set_index({!r}), or leave it out"
        raise Error(
            f"Column {name} of the frame has {column.dtype}, and no numbers: {cure.format(name)}."
        )
    if hasattr(column, "isna"):  # pandas: missing whole numbers have types of their own
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(column.to_numpy(), np.float64)


def _check_times(index: Any) -> None:
    """Raises `Error` where an index has times that do not ascend in even steps.

    Months, quarters and business days are even, though not in hours.
    """
    index = index.to_timestamp() if hasattr(index, "to_timestamp") else index
    if not hasattr(index, "tz") or len(index) < 2:
        return
    times = (index if index.tz is None else index.tz_convert(None)).to_numpy()
    steps, none = np.diff(times), np.timedelta64(0, "us")
    ignored = "or frame.reset_index(drop=True), which takes the rows as they are"
    if not (steps > none).all():
        row = 1 + int(np.argmin(steps > none))
        raise Error(
            f"The times in the frame's index must ascend, and row {row} ({index[row]}) is not "
            f"after row {row - 1} ({index[row - 1]}): sort them by frame.sort_index(), leave out "
            f"those that occur twice, {ignored}."
        )
    usual = np.median(steps.astype(np.int64)).astype(steps.dtype)
    if (steps != usual).any() and not _is_calendar(index):
        row = int(np.argmax(np.abs(steps - usual)))
        raise Error(
            f"The times in the frame's index are not even, and windows would span the gaps: most "
            f"steps are {_text(usual)}, and row {row + 1} ({index[row + 1]}) is "
            f"{_text(steps[row])} after row {row} ({index[row]}). Fill them in, by "
            f"frame.asfreq(...).ffill(), {ignored}."
        )


def _is_calendar(index: Any) -> bool:
    """Whether the times are those of months, business days and the like, without one missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that pandas is to give another type
        return index.inferred_freq is not None


def _text(step: np.timedelta64) -> str:
    """A step of time, as in "4 days, 1:00:00"."""
    return str(step.astype("timedelta64[us]").item())
