"""Padding of rows of tokens to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MULTIPLE = 8  # the padded length is rounded up to a multiple of it, which hardware prefers


def padded_length(longest: int, max_length: int | None = None) -> int:
    """The length of rows of which the longest has so many tokens: at most `max_length`."""
    length = -(-longest // MULTIPLE) * MULTIPLE
    return length if max_length is None else min(length, max_length)


def padded(
    rows: Sequence[Sequence[Any] | np.ndarray], length: int, dtype: Any = np.int32, fill: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows as an array (N, length), padded with `fill`, and their lengths (N,)."""
    lengths = np.asarray([len(row) for row in rows], np.int32)
    x = np.full((len(rows), length), fill, dtype)
    x[np.arange(length) < lengths[:, None]] = np.concatenate([np.zeros(0, dtype), *rows])
    return x, lengths
