"""The encoding of a table's columns as numbers and codes, with the statistics of training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jdl.data.columns import NUMBER, Column
from jdl.types import Error

UNKNOWN, MISSING = 0, 1  # codes of an unknown category and of a missing value
FIRST = 2  # the code of the first category


@dataclass(frozen=True)
class NumberEncoding:
    """A column of numbers: (number - mean) / std, as standardization (z-scores) has it.

    Missing numbers are imputed by the median. The mean and the standard deviation are those of the
    training rows after imputation; a constant column has std 1.
    """

    name: str
    median: float
    mean: float
    std: float
    indicator: bool  # whether x has a column for it that is 1 where the number is missing


@dataclass(frozen=True)
class CategoryEncoding:
    """A column of categories: the code of values[n] is n + 2; 0 is unknown, 1 is missing.

    Where no training row has a missing value, a missing value is unknown too: the embedding of code
    1 was never trained.
    """

    name: str
    values: tuple[str, ...]
    missing: bool  # whether the training rows have missing values

    @property
    def size(self) -> int:
        """The number of codes: the rows of an embedding table."""
        return len(self.values) + FIRST

    def lookup(self, values: tuple[str, ...]) -> np.ndarray:
        """The code of each of these values, and at the end that of a missing value."""
        codes = {value: n for n, value in enumerate(self.values, FIRST)}
        missing = MISSING if self.missing else UNKNOWN
        return np.asarray([*(codes.get(value, UNKNOWN) for value in values), missing], np.int32)


@dataclass(frozen=True)
class Encoding:
    """How rows of a table become numbers `x` (N, F) and `codes` (N, C), fitted to training rows.

    x has the standardized numbers, then the missing-value indicators, then, if `one_hot`, the
    categories in one-hot encoding, all 0 for an unknown category; otherwise categories are in
    `codes`, for an embedding.
    """

    numbers: tuple[NumberEncoding, ...]
    categories: tuple[CategoryEncoding, ...]
    one_hot: bool
    targets: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # the classes of the target; empty for regression
    target_mean: tuple[float, ...] = ()  # y * target_std + target_mean is in the table's unit;
    target_std: tuple[float, ...] = ()  # empty where y is not standardized

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table that are read."""
        numbers = [column.name for column in self.numbers]
        return (*numbers, *(column.name for column in self.categories))

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The name of each column of x: "age", "age missing", "sex=female"."""
        names = [column.name for column in self.numbers]
        names += [f"{column.name} missing" for column in self.numbers if column.indicator]
        for column in self.categories if self.one_hot else ():
            names += [f"{column.name}={value}" for value in column.values]
            names += [f"{column.name} missing"] * column.missing
        return tuple(names)

    @property
    def sources(self) -> tuple[str, ...]:
        """The column of the table that each column of x is of."""
        names = [column.name for column in self.numbers]
        names += [column.name for column in self.numbers if column.indicator]
        for column in self.categories if self.one_hot else ():
            names += [column.name] * (len(column.values) + column.missing)
        return tuple(names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of codes of each column of `codes`, for embedding tables."""
        return () if self.one_hot else tuple(column.size for column in self.categories)

    def in_unit(self, values: np.ndarray) -> np.ndarray:
        """Predicted targets in the table's unit: values * target_std + target_mean."""
        if not self.target_std:
            return values
        std, mean = np.asarray(self.target_std), np.asarray(self.target_mean)
        return (values.astype(np.float64) * std + mean).astype(np.float32)

    def encode(self, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """x, and codes if there are any, of these columns."""
        rows = len(columns[self.names[0]].data)
        numbers = {column.name: columns[column.name].data for column in self.numbers}
        codes = np.empty((rows, len(self.categories)), np.int32)
        for n, category in enumerate(self.categories):
            column = columns[category.name]
            codes[:, n] = category.lookup(column.values)[column.data]
        return self.encode_arrays(numbers, codes)

    def encode_arrays(
        self, numbers: Mapping[str, np.ndarray], codes: np.ndarray
    ) -> dict[str, np.ndarray]:
        """x, and codes if there are any, from numbers that are NaN where missing, and codes."""
        x = np.zeros((len(codes), len(self.feature_names)), np.float32)
        place = len(self.numbers)
        for n, number in enumerate(self.numbers):
            data = numbers[number.name]
            missing = np.isnan(data)
            x[:, n] = (np.where(missing, number.median, data) - number.mean) / number.std
            if number.indicator:
                x[:, place] = missing
                place += 1
        if not self.one_hot:
            return {"x": x, "codes": codes} if self.categories else {"x": x}
        for n, category in enumerate(self.categories):
            for code in range(FIRST, category.size):
                x[:, place + code - FIRST] = codes[:, n] == code
            place += len(category.values)
            if category.missing:
                x[:, place] = codes[:, n] == MISSING
                place += 1
        return {"x": x}


def fit_encoding(
    columns: Mapping[str, Column],
    rows: np.ndarray,
    one_hot: bool,
) -> Encoding:
    """The encoding of these columns whose statistics are those of these rows alone."""
    features = list(columns.values())
    if not features:
        raise Error("The table has no columns besides target, weight and drop.")
    numbers = [_fit_number(c, c.data[rows]) for c in features if c.kind != "category"]
    categories = [fit_category(c, c.data[rows]) for c in features if c.kind == "category"]
    return Encoding(tuple(numbers), tuple(categories), one_hot)


def _fit_number(column: Column, data: np.ndarray) -> NumberEncoding:
    missing = np.isnan(data)
    if missing.all():
        raise Error(
            f"Column {column.name} has no value in the training part: leave it out by "
            f"drop=({column.name!r},)."
        )
    median = float(np.median(data[~missing]))
    data = np.where(missing, median, data)
    return NumberEncoding(column.name, median, *mean_std(data), bool(missing.any()))


def mean_std(data: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; 1 for constant numbers."""
    constant = data.min() == data.max()  # whose computed deviation can be of rounding alone
    return float(data.mean()), 1.0 if constant else float(data.std())


def fit_category(column: Column, data: np.ndarray) -> CategoryEncoding:
    """The encoding of a column by its codes in the training rows."""
    seen = np.unique(data)
    values = sort_labels(column.values[code] for code in seen if code >= 0)
    return CategoryEncoding(column.name, values, bool(seen[0] < 0))


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Numbers by their size, and then texts by their letters."""
    numbers = {label: bool(NUMBER.fullmatch(label)) for label in labels}
    return tuple(sorted(numbers, key=lambda t: (not numbers[t], float(t) if numbers[t] else 0, t)))
