"""The self-check of a program: a few inputs, and the answers that the run itself gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdl.export.program import Program

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """A program with a few inputs, and the outputs that the run gives for them without it."""

    program: Program
    inputs: Arrays
    outputs: Arrays


def difference(expected: Mapping[str, np.ndarray], actual: Mapping[str, Any]) -> float:
    """The largest difference of two answers, relative to the largest number of each output.

    It is 0 where they are equal to the bit, and infinite where names, shapes, types or whole
    numbers differ.
    """
    if expected.keys() != actual.keys():
        return np.inf
    return max(_difference(expected[name], np.asarray(actual[name])) for name in expected)


def _difference(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return np.inf
    if expected.tobytes() == actual.tobytes():
        return 0.0
    if not jnp.issubdtype(expected.dtype, jnp.floating):
        return np.inf
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(a)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(b[finite]).all()
    ):
        return np.inf
    largest = max(np.abs(a[finite]).max(initial=0), np.finfo(np.float32).tiny)
    return float(np.abs(a - b)[finite].max(initial=0) / largest)
