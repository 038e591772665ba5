"""Shuffling: the order of an epoch's examples, a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence
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


def epoch_order(rows: int, size: int, seed: int | None, epoch: int) -> np.ndarray:
    """The rows of an epoch (int32), padded with row 0 to whole batches of `size`.

    Without a seed they are in the dataset's order.
    """
    order = np.arange(rows, dtype=np.int32) if seed is None else permutation(rows, seed, epoch)
    return np.concatenate([order, np.zeros(-rows % size, np.int32)])
