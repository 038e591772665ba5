"""Standardization: columns scaled by the mean and standard deviation of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jdl.data.augment import Normalize
from jdl.data.dataset import Dataset
from jdl.types import Batch, Error

ROWS = 1024  # of a batch of which statistics are computed
LEAST = 1e-7  # a deviation below this share of the mean is rounding of float32


def standardize(
    train: Dataset,
    *others: Dataset,
    columns: Sequence[str] = ("x",),
    per: Literal["feature", "channel"] = "feature",
) -> tuple[Dataset, ...]:
    """Standardization (z-scores): subtracts the mean and divides by the standard deviation.

    Both are those of `train` alone, and are applied to it and to `others`: `train, test =
    standardize(train, test)`. They are computed in float64, after the transforms that `train` has,
    for each "feature", an element of the column, or for each "channel", an index of its last axis.
    `train.transforms[-1]` has them as `mean` and `std`, and run.json records them. A feature of one
    value is divided by 1. With the column `length`, padded steps of x do not count, and stay as
    they are.
    """
    if per not in ("feature", "channel"):
        raise Error(f'standardize takes per="feature" or per="channel", not {per!r}.')
    spec = train.batches(1).spec
    for split in (train, *others):
        _check_columns(split.batches(1).spec, spec, columns)
    loader = train.batches(min(ROWS, len(train)))
    sums = {name: _Moments() for name in columns}
    lengths = {name: _length(name, spec) for name in columns}
    for i in range(len(loader)):
        batch = loader[i]
        for name in columns:
            values = np.asarray(batch[name], np.float64)
            axes = tuple(range(values.ndim - 1 if per == "channel" and values.ndim > 1 else 1))
            sums[name] = sums[name].add(values, _real(batch, values.shape, lengths[name]), axes)
    transforms = [
        Normalize(sums[name].mean, sums[name].std, name, lengths[name]) for name in columns
    ]
    return tuple(split.map(*transforms) for split in (train, *others))


@dataclass(frozen=True)
class _Moments:
    """Counts, means and summed squares of differences from them, merged as by Chan et al. (1983).

    So the data are read once, and no large sum of squares loses digits.
    """

    count: Any = 0.0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, values: np.ndarray, real: np.ndarray, axes: tuple[int, ...]) -> _Moments:
        """With these values too, where they are `real`."""
        count = real.sum(axes, dtype=np.float64)
        mean = np.where(real, values, 0).sum(axes) / np.maximum(count, 1)
        squares = np.where(real, (values - mean) ** 2, 0).sum(axes)
        total = np.maximum(self.count + count, 1)
        apart = mean - self.mean
        return _Moments(
            self.count + count,
            self.mean + apart * count / total,
            self.squares + squares + apart**2 * self.count * count / total,
        )

    @property
    def std(self) -> np.ndarray:
        """The standard deviation (of a population), or 1 where all values are the same."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(std > LEAST * np.abs(self.mean), std, 1.0)


def _length(name: str, spec: Batch) -> str | None:
    """The column of the real time steps of x (B, T, ...), if there is one."""
    return "length" if name == "x" and "length" in spec and spec["x"].ndim > 1 else None


def _real(batch: Batch, shape: tuple[int, ...], length: str | None) -> np.ndarray:
    """The mask of the real values of a column (B, ...): no padding, of rows or of time steps."""
    real = np.asarray(batch["mask"]).reshape(-1, *(1,) * (len(shape) - 1))
    if length:
        steps = np.arange(shape[1])[None] < np.asarray(batch[length])[:, None]
        real = real & steps.reshape(*shape[:2], *(1,) * (len(shape) - 2))
    return np.broadcast_to(real, shape)


def _check_columns(spec: Batch, train: Batch, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in spec or name not in train:
            raise Error(
                f"standardize finds no column {name} in every split; one has "
                f"{', '.join(sorted(set(spec) - {'id', 'mask'}))}."
            )
        if spec[name].shape != train[name].shape:
            raise Error(
                f"standardize needs splits of one shape, but column {name} of an example is "
                f"{train[name].shape[1:]} in the training data and {spec[name].shape[1:]} in "
                "another split."
            )
