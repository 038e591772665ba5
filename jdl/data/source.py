"""Data sources with random access, from which datasets read their rows; arrays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jdl.image_bytes import is_image
from jdl.types import Bounds, Error, sides_of, sums_of

MEMORY_BYTES = 4 << 30  # of files, what is up to this size is read into memory


class Source(Protocol):
    """A data source with random access by row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, each (len(rows), ...)."""

    @property
    def nbytes(self) -> int:
        """The size of all columns in bytes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; empty where there are none."""

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column, where known."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples."""


@runtime_checkable
class ReadsColumn(Protocol):
    """A source that can read a column without the others."""

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One column of these rows, as `take` has it."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """A source of numpy arrays in memory, one per column."""

    columns: Mapping[str, np.ndarray]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""
        return {name: column[rows] for name, column in self.columns.items()}

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One column of these rows."""
        return self.columns[name][rows]

    @property
    def nbytes(self) -> int:
        """The size of all columns in bytes."""
        return sum(column.nbytes for column in self.columns.values())

    @cached_property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column, of sums of what may be shares, of sides.

        Sides are the widths and heights of the column `boxes`.
        """
        known = {
            name: (column.min().item(), column.max().item())
            for name, column in self.columns.items()
        }
        for name, column in self.columns.items():
            least, greatest = known[name]
            shares = column.ndim > 1 and column.shape[-1] > 1 and column.dtype != np.uint8
            if shares and 0 <= least <= greatest <= 1:
                sums = column.sum(-1)
                known[sums_of(name)] = (sums.min().item(), sums.max().item())
            if name == "boxes" and column.ndim == 3 and column.shape[-1] == 4:
                edges = column.astype(np.float32)  # unsigned ones would wrap around
                sides = edges[..., 2:] - edges[..., :2]
                known[sides_of(name)] = (sides.min().item(), sides.max().item())
        return known

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the columns' names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, column in sorted(self.columns.items()):
            digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class WithColumns:
    """A source with more columns, kept in memory; `places` has each row's place in them, or -1."""

    source: Source
    added: ArraySource
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows."""
        return {**self.source.take(rows), **self.added.take(self.places[rows])}

    @property
    def nbytes(self) -> int:
        """The size of all columns in bytes."""
        return self.source.nbytes + self.added.nbytes

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.source.labels

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column, where known."""
        return {**self.source.bounds, **self.added.bounds}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the examples."""
        parts = self.source.fingerprint, self.added.fingerprint, self.places.tobytes().hex()
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def check_column(name: str, values: Any) -> np.ndarray:
    """The values as an array of float32, int32 or, for images, uint8; `Error` for any other."""
    if isinstance(values, Mapping):
        raise Error(
            f"Column {name} is a dict, and a column is one array: give each array a column of its "
            "own, by name; **columns gives all of a dict."
        )
    column = _stack(name, values)
    if is_image(name, column):
        return column
    if column.dtype.kind in "USO" and column.ndim:
        raise Error(
            f"Column {name} must hold numbers, one row per example, but it holds {column.dtype}. "
            "Texts of classes become numbers by labels, y = np.unique(y, return_inverse=True)."
        )
    if column.dtype.kind not in "biuf" or not column.ndim:
        raise Error(
            f"Column {name} must hold numbers, one row per example, but it is {column.dtype} of "
            f"shape {column.shape}."
        )
    if column.dtype.kind == "f":
        with np.errstate(over="ignore"):
            column = column.astype(np.float32, copy=False)
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row = np.argwhere(~np.isfinite(column))[0][0]
        raise Error(
            f"Column {name} has a NaN or infinite value, or one too large for float32, first in "
            f"row {row}: replace the value or drop such rows."
        )
    if column.dtype.kind == "f":
        return column
    if column.size and not -(2**31) <= int(column.min()) <= int(column.max()) < 2**31:
        raise Error(
            f"Column {name} has integers from {column.min()} to {column.max()}, which do not fit "
            "into 32 bits: rescale them, or use floating-point numbers."
        )
    return column.astype(np.int32, copy=False)


def _stack(name: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray | jax.Array):
        return np.asarray(values)
    rows = [np.asarray(value) for value in values]
    odd = next((n for n, row in enumerate(rows) if row.shape != rows[0].shape), None)
    if odd is not None:
        raise Error(
            f"The examples of column {name} differ in shape: number 0 is {rows[0].shape} and "
            f"number {odd} is {rows[odd].shape}. Bring them to one shape first, by resizing, "
            "cropping or padding."
        )
    return np.asarray(rows)
