"""Tables of time series: arrays and data frames, one row per time step, as inputs of a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jdl.data.column_store import in_memory
from jdl.data.columns import MISSING, Column, Decoding, Kind, decode
from jdl.data.encoding import Encoding, NumberEncoding, fit_category
from jdl.data.table_rows import FrameRows, require_pyarrow
from jdl.types import Error

NUMBERS = "biuf"  # the kinds of NumPy dtypes that are numbers
CATEGORICAL = "category", "Categorical", "Enum"  # the types of pandas and Polars
Several = int | str | Sequence[int | str]  # one column or more, by name or number


def series_columns(
    table: Any, categorical: Several = (), drop: Several = (), missing: Sequence[str] = ()
) -> tuple[dict[int, Column], list[Any]]:
    """The columns (T,) of a table by number, without `drop`; and the names of all in the table.

    Names are those of a frame, or 0, 1, ..., so that a number means the same whatever is dropped.

    Text, and the columns in `categorical`, are decoded as those of `jdl.data.frame` are. Raises
    `Error` for dates, for infinite numbers, and where the index of a pandas frame has times that do
    not ascend in even steps.
    """
    if hasattr(table, "columns") and hasattr(table, "dtypes"):  # of pandas or Polars
        names = list(table.columns)
        if len({str(name) for name in names}) < len(names):
            raise Error("Two columns of the frame have the same name: rename one of them.")
        _check_times(getattr(table, "index", None))
        parts = [table[name] for name in names]
    else:
        parts = list(_array(table).T)
        names = list(range(len(parts)))
    given = {column_number(column, names) for column in several(categorical)}
    out = {column_number(column, names) for column in several(drop)}
    missing = (*MISSING, *several(missing))
    columns = {
        n: _category(str(names[n]), part, n in given, missing)
        if n in given or _kind(part) not in NUMBERS
        else Column(str(names[n]), "number", _numbers(part))
        for n, part in enumerate(parts)
        if n not in out
    }
    for column in columns.values():
        _check_finite(column, hasattr(table, "replace"))
    return columns, names


def several(given: Several) -> tuple[Any, ...]:
    """Columns of which one may be given alone, as a tuple."""
    return (given,) if isinstance(given, int | str) else tuple(given)


def encode_series(columns: Sequence[Column], end: int) -> tuple[Encoding, np.ndarray]:
    """How the columns become inputs x (T, F), by the first `end` steps alone, and these inputs.

    Numbers are standardized, and a missing one is the mean, 0, with an indicator beside it;
    categories are in one-hot encoding.
    """
    known = {column.name: column.data[:end] for column in columns}
    for column in columns:
        if column.missing[:end].all():
            raise Error(
                f"Column {column.name} has no value in the training split: leave it out, by "
                f"drop=({column.name!r},)."
            )
    numbers = [column.name for column in columns if column.kind != "category"]
    values = np.stack([known[name] for name in numbers], axis=1)
    mean, std = (statistic(values, axis=0) for statistic in (np.nanmean, np.nanstd))
    # The computed deviation of a constant can be of rounding alone, and that of tiny numbers 0.
    constant = (np.nanmin(values, axis=0) == np.nanmax(values, axis=0)) | (std == 0)
    if constant.any():
        raise Error(
            f"Column {numbers[int(constant.argmax())]} is constant in the training split and "
            "cannot be normalized: leave it out, by `drop`."
        )
    fitted = tuple(
        # The mean is in the place of the median: a gap is 0 in x.
        NumberEncoding(name, m, m, s, bool(np.isnan(known[name]).any()))
        for name, m, s in zip(numbers, mean.tolist(), std.tolist(), strict=True)
    )
    categories = tuple(fit_category(c, known[c.name]) for c in columns if c.kind == "category")
    encoding = Encoding(fitted, categories, one_hot=True)
    return encoding, encoding.encode({column.name: column for column in columns})["x"]


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


def _array(table: Any) -> np.ndarray:
    values = np.asarray(table)
    if values.ndim != 2 or values.dtype.kind not in NUMBERS:
        raise Error(
            "forecast_windows takes a table of numbers (T, F), one row per time step, not "
            f"{values.dtype} {values.shape}."
        )
    return values


def _kind(part: Any) -> str:
    """The kind of a column's NumPy dtype; Polars's types have none."""
    return getattr(part.dtype, "kind", None) or part.to_numpy().dtype.kind


def _numbers(part: Any) -> np.ndarray:
    """The numbers of a column, in 64 bits; what is missing is NaN."""
    if hasattr(part, "isna"):  # pandas: missing whole numbers have types of their own
        return np.asarray(part.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(part, np.float64)


def _category(name: str, part: Any, given: bool, missing: tuple[str, ...]) -> Column:
    """A column of categories, or of the numbers or truth values that its texts are."""
    if _kind(part) not in "mM":
        require_pyarrow()
        given = given or str(part.dtype).startswith(CATEGORICAL)
        kinds: dict[str, Kind] = {name: "category"} if given else {}
        source, decoding = FrameRows({name: part}), Decoding(kinds, missing)
        columns, _ = in_memory(lambda writer: decode([source], decoding, writer))
        if columns[name].kind != "date":
            return columns[name]
    raise Error(
        f"Column {name} of the frame has dates, and no numbers: make it the index of a pandas "
        f"frame, frame.set_index({name!r}), or leave it out, by drop=({name!r},)."
    )


def _check_finite(column: Column, is_pandas: bool) -> None:
    """Raises `Error` for infinite numbers."""
    infinite = np.isinf(column.data)
    if infinite.any():
        cure = "; frame.replace([np.inf, -np.inf], np.nan) makes them missing" * is_pandas
        raise Error(
            f"Column {column.name} has an infinite value, first in row {infinite.argmax()}: "
            f"replace such values{cure}."
        )


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
            "those that occur twice, choose the rows of one series where the frame has several, "
            f"{ignored}."
        )
    usual = np.median(steps.astype(np.int64)).astype(steps.dtype)
    if (steps != usual).any() and not _is_calendar(index):
        row = int(np.argmax(np.abs(steps - usual)))
        raise Error(
            f"The times in the frame's index are not even, and windows would span the gaps: most "
            f"steps are {_text(usual)}, and row {row + 1} ({index[row + 1]}) is "
            f"{_text(steps[row])} after row {row} ({index[row]}). Fill them in, by "
            f"frame.asfreq(...), {ignored}."
        )


def _is_calendar(index: Any) -> bool:
    """Whether the times are those of months, business days and the like, without one missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that pandas is to give another type
        return index.inferred_freq is not None


def _text(step: np.timedelta64) -> str:
    """A step of time, as in "4 days, 1:00:00"."""
    return str(step.astype("timedelta64[us]").item())
