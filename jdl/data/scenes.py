"""Scenes of several handwritten digits: a multi-label task, made from scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.digits import digits
from jdl.types import Error

SIZE, CELLS, JITTER, MOST = 24, 3, 2, 4  # pixels a side, cells a side, pixels, digits
DRAWS = 1 + CELLS**2 + 2 * MOST  # of a scene

Ranges = dict[str, tuple[float, float]]


def digit_scenes(train: int = 10_000, test: int = 2_000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Scenes of 1 to 4 real digits, in which several labels are true at once: (train, test).

    Columns: x (24, 24, 1) from 0 to 1, and y (10,) of 0 and 1, which digits occur. The digits are
    those of `jdl.data.digits()`, 8 by 8 pixels: scenes to train on show its training digits, those
    to test on its test digits. They stand in different cells of a 3 by 3 grid, moved by up to 2
    pixels, so that neighbours can overlap. Scene i is a function of (seed, i) alone: with more
    scenes the first ones stay the same.
    """
    return of_digits("digit_scenes", _scenes, train, test, seed)


def of_digits(
    function: str,
    make: Callable[[Dataset, int, int, str], Dataset],
    train: int,
    test: int,
    seed: int,
) -> tuple[Dataset, Dataset]:
    """Images (train, test) of several digits each, of those of `jdl.data.digits()`: `of_parts`."""
    return of_parts(function, digits, make, train, test, seed)


def of_parts(
    function: str,
    read: Callable[[], tuple[Dataset, ...]],
    make: Callable[[Dataset, int, int, str], Dataset],
    train: int,
    test: int,
    seed: int,
) -> tuple[Dataset, Dataset]:
    """Images (train, test) of what `read` gives, by `make(part, rows, seed, name of the part)`.

    Training images get what is in its training part alone, and test images what is in its test
    part. Raises `Error`, as the function of that name, for less than one image.
    """
    if min(train, test) < 1:
        raise Error(f"{function} takes numbers of images, at least 1, not {train} and {test}.")
    parts = zip(("train", "test"), (train, test), read(), strict=True)
    made = [make(part, rows, seed, name) for name, rows, part in parts]
    return made[0], made[1]


def raw_draws(rows: int, draws: int, seed: int, name: str) -> np.ndarray:
    """Random integers (rows, draws) of 64 bits, in which row i has its own part of the stream.

    They are the raw output of Philox-4x64 (Salmon et al., 2011) under the key (seed, name), which
    is the same in all versions of NumPy.
    """
    key = np.asarray([seed, crc32(name.encode())], np.uint64)
    return np.random.Philox(key=key).random_raw(rows * draws).reshape(rows, draws)


def within(ranges: Ranges, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Random numbers within the ranges, by name, from the draws of each on the last axis."""
    uniforms = (draws >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    bounds = zip(ranges.items(), np.moveaxis(uniforms, -1, 0), strict=True)
    return {name: low + (high - low) * uniform for (name, (low, high)), uniform in bounds}


def between(place: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation: the pixel before each place of 0 to `last`, and the next one's share.

    Places outside are those of the image's edge.
    """
    place = place.clip(0, last)
    before = np.minimum(np.floor(place), last - 1)
    return before.astype(int), place - before


def _scenes(part: Dataset, rows: int, seed: int, name: str) -> Dataset:
    images = np.rint(part.columns["x"][..., 0] * 255).astype(np.uint8)
    labels = part.columns["y"]
    counts, cells, chosen, moves = _draws(rows, seed, name)
    chosen = chosen % len(images)
    x = np.zeros((rows, SIZE, SIZE), np.uint8)
    y = np.zeros((rows, len(part.labels)), np.int32)
    for n in range(MOST):
        scenes = np.flatnonzero(counts > n)
        corners = np.stack(np.divmod(cells[scenes, n], CELLS), -1) * (SIZE // CELLS)
        corners = (corners + moves[scenes, n]).clip(0, SIZE - SIZE // CELLS)
        pixels = np.arange(SIZE // CELLS)
        at = (
            scenes[:, None, None],
            corners[:, 0, None, None] + pixels[:, None],
            corners[:, 1, None, None] + pixels,
        )
        x[at] = np.maximum(x[at], images[chosen[scenes, n]])
        y[scenes, labels[chosen[scenes, n]]] = 1
    return arrays(part.labels, x=x[..., None], y=y)


def _draws(rows: int, seed: int, name: str) -> tuple[np.ndarray, ...]:
    """Each scene's number of digits, their cells, digits and moves, (rows, ...)."""
    raw = raw_draws(rows, DRAWS, seed, name)
    counts, cells, chosen, moves = np.split(raw, [1, 1 + CELLS**2, 1 + CELLS**2 + MOST], axis=1)
    wide = 2 * JITTER + 1
    return (
        1 + (counts[:, 0] % MOST).astype(int),
        np.argsort(cells, axis=1, kind="stable")[:, :MOST],
        (chosen % (1 << 32)).astype(int),
        np.stack([moves % wide, moves // wide % wide], -1).astype(int) - JITTER,
    )
