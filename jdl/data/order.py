"""Shuffling: the order of an epoch's examples, a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from jdl.errors import Error


def permutation(rows: int, seed: int, epoch: int = 0, name: str = "order") -> np.ndarray:
    """A random permutation of 0 ... rows - 1 (int32) for this seed, epoch and purpose.

    The rows are sorted by the raw output of Philox-4x64 (Salmon et al., 2011) under the key (seed,
    name and epoch). NumPy guarantees that stream in all versions, unlike those of its `Generator`;
    and no device is involved.
    """
    return np.argsort(_raw(rows, seed, epoch, name), kind="stable").astype(np.int32)


def uniforms(count: int, seed: int, epoch: int = 0, name: str = "uniforms") -> np.ndarray:
    """Random numbers (float64) in [0, 1) for this seed, epoch and purpose, drawn like those."""
    return (_raw(count, seed, epoch, name) >> np.uint64(11)) * 2.0**-53


def _raw(count: int, seed: int, epoch: int, name: str) -> np.ndarray:
    key = np.asarray([seed, crc32(name.encode()) << 32 | epoch], np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def split_rows(rows: int, fractions: Sequence[float], seed: int, name: str) -> list[np.ndarray]:
    """Disjoint random splits of the rows 0 ... rows - 1, each in ascending order.

    Raises `Error` where a split would be empty.
    """
    ends = np.rint(np.cumsum(fractions) * rows).astype(int)
    order = permutation(rows, seed, name=name)
    splits = [np.sort(part) for part in np.split(order, ends)[: len(fractions)]]
    if not all(map(len, splits)):
        counts = ", ".join(str(len(part)) for part in splits)
        raise Error(
            f"{rows} rows are too few: the splits would have {counts} rows. Ask for fewer or "
            "larger splits."
        )
    return splits


def epoch_order(
    rows: int, size: int, seed: int | None, epoch: int, sampling: Sampling | None = None
) -> np.ndarray:
    """The rows of an epoch (int32), padded with row 0 to whole batches of `size`.

    Without a seed they are in the dataset's order; with `sampling` some come more often than
    others.
    """
    order = np.arange(rows, dtype=np.int32) if seed is None else permutation(rows, seed, epoch)
    if sampling and seed is not None:
        order = sampling.draw(seed, epoch)[order]
    return np.concatenate([order, np.zeros(-rows % size, np.int32)])


@dataclass(frozen=True, eq=False)
class Sampling:
    """Weighted sampling with replacement: each row is drawn in proportion to its weight.

    By systematic resampling (Kitagawa, 1996): a row of which an epoch should have 2.3 copies has 2
    or 3, 2.3 in the mean, and so with each stratum, such as a class. Independent draws would have
    the same means, but scatter more.
    """

    weights: np.ndarray  # float64, above 0
    strata: np.ndarray  # int: rows that are drawn in proportion together, too, such as a class

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """As many rows as there are, drawn by their weights; by stratum, to be shuffled."""
        rows = len(self.weights)
        # Among the rows of a stratum the order is random: else neighbors would exclude each other.
        order = permutation(rows, seed, epoch, name="sampling")
        order = order[np.argsort(self.strata[order], kind="stable")]
        ends = np.cumsum(self.weights[order])
        points = (np.arange(rows) + uniforms(1, seed, epoch)) * (ends[-1] / rows)
        places = np.searchsorted(ends, points, side="right")
        return order[np.minimum(places, rows - 1)]  # rounding may put the last point at the end
