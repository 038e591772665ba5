"""The k nearest neighbors of every row: exact, in little memory, and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from jdl.data.cache import cache_dir, read_cache, write_cache
from jdl.types import Error

CACHED = 10_000  # rows, from which the neighbors are kept in the cache
CACHE_VERSION = 1  # another number where the same rows get other neighbors
BLOCK = 256  # rows whose neighbors are searched at a time
CHUNKS = 1024  # that the rows are divided into, to find a limit for the candidates


def nearest_rows(x: np.ndarray, k: int) -> np.ndarray:
    """The k nearest neighbors (N, k) of the rows x (N, F), by Euclidean distance, nearest first.

    Of rows at the same distance the first ones are taken, so that they are the same everywhere. A
    product of float32 matrices finds candidates, and distances by differences in float64 decide
    among them. Where rounding could have hidden a neighbor, all rows are candidates.
    """
    if not 0 < k < len(x):
        raise Error(f"k, the number of neighbors, must be from 1 to {len(x) - 1}, not {k}.")
    if not (finite := np.isfinite(x).all(1)).all():
        raise Error(f"Row {finite.argmin()} of x has NaN or infinity, and no distance to others.")
    if len(x) < CACHED:
        return _nearest(x, k)
    key = hashlib.sha256(f"{x.dtype} {x.shape} {k} {CACHE_VERSION}\n".encode() + x.tobytes())
    folder = cache_dir() / "nearest" / key.hexdigest()
    columns = read_cache(folder)
    if columns is None:
        columns = {"nearest": _nearest(x, k)}
        write_cache(folder, columns)
    return columns["nearest"]


def _nearest(x: np.ndarray, k: int) -> np.ndarray:
    nearest = np.zeros((len(x), k), np.int32)
    every = np.arange(len(x))
    for row, (candidates, limit) in enumerate(_candidates(x, 2 * k + 16)):
        nearest[row], farthest = _closest(x, row, candidates, k)
        if not farthest < limit:
            nearest[row], _ = _closest(x, row, every, k)
    return nearest


def _closest(x: np.ndarray, row: int, candidates: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """The k candidates that are closest to a row, and the squared distance of the last of them."""
    from scipy.spatial.distance import cdist  # by differences: exact ties stay ties

    others = candidates[candidates != row]
    distances = cdist(x[row, None], x[others], "sqeuclidean")[0]
    order = np.argsort(distances, kind="stable")[:k]
    return others[order], distances[order[-1]]


def _candidates(x: np.ndarray, wanted: int) -> Iterator[tuple[np.ndarray, float]]:
    """For each row: at least `wanted` candidates, ascending, and a limit that others are beyond.

    The smallest distances of different chunks are those of different rows. So at least `wanted`
    rows are no farther than the chunk whose smallest distance is the `wanted`th.
    """
    rows, features = x.shape
    width = max(1, rows // CHUNKS)
    padding = -rows % width
    if wanted >= (rows + padding) // width:
        yield from ((np.arange(rows), np.inf) for _ in range(rows))
        return
    x = (x - x.mean(0, dtype=np.float64)).astype(np.float32)
    squares = (x**2).sum(1)
    # |b|^2 - 2 ab of rows a and b by one product; of the padding, infinity.
    right = np.concatenate([x, squares[:, None]], 1)
    right = np.pad(right, ((0, padding), (0, 0)))
    right[rows:, -1] = np.inf
    left = np.concatenate([-2 * x, np.ones_like(x[:, :1])], 1)
    # A sum of n products is wrong by n eps times the sum of their sizes at most (Higham, 2002); the
    # factor 4 is for the other roundings.
    error = 4 * (features + 4) * np.finfo(np.float32).eps
    for start in range(0, rows, BLOCK):
        distances = left[start : start + BLOCK] @ right.T
        least = distances.reshape(len(distances), -1, width).min(2)
        limits = np.partition(least, wanted - 1, axis=1)[:, wanted - 1]
        own = squares[start : start + BLOCK]
        beyond = limits.astype(np.float64) + own - error * (own + squares.max())
        for near, limit in zip(distances <= limits[:, None], beyond, strict=True):
            yield np.flatnonzero(near), limit
