"""Metrics that need all rows at once: the rows of an evaluation, kept until its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import first_line
from jdl.types import Array, Error


class Part(NamedTuple):
    """Columns (N, ...) of N rows, and which of them count (N,), or None where all do."""

    columns: tuple[Any, ...]
    mask: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """A metric of all rows of an evaluation together, such as ROC AUC, for evaluation only.

    `function(*columns)` computes the number, on the host: it gets NumPy columns with all rows that
    count, in no order that it may rely on. The memory is that of the columns: 8 bytes a row for a
    float32 score and an int32 label, on the device until the end of the evaluation and then on the
    host. Of several processes each has all rows.
    """

    function: Callable[..., float] = field(metadata={"static": True})
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, function: Callable[..., float], *columns: Any, mask: Any = None) -> Rows:
        """The rows of columns (B, ...) whose `mask` is not zero.

        A mask (B, T) of time steps makes a row of each step of columns (B, T, ...).
        """
        if mask is None:
            return cls(function, (Part(columns, None),))
        for column in columns:
            if column.shape[: mask.ndim] != mask.shape:
                raise Error(
                    f"A column of the metric has the shape {column.shape}, and its mask "
                    f"{mask.shape}: the first axes must be those of the mask."
                )
        flat = tuple(column.reshape(-1, *column.shape[mask.ndim :]) for column in columns)
        return cls(function, (Part(flat, mask.reshape(-1).astype(bool)),))

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.function, self.parts + other.parts)

    def on_host(self) -> Rows:
        """The same rows in NumPy, without those that do not count."""
        return Rows(self.function, tuple(map(_on_host, self.parts)))

    def value(self) -> Any:
        """The function of all rows: NaN where it is not defined. Traced, it is a callback."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self.parts)):
            number = jax.ShapeDtypeStruct((), jnp.float32)
            return jax.pure_callback(lambda rows: np.float32(rows.value()), number, self)
        return self._number

    @cached_property
    def _number(self) -> float:
        parts = [part.columns for part in self.on_host().parts]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        if not len(columns[0]):
            return float("nan")
        try:
            return float(self.function(*columns))
        except Error:
            raise
        except Exception as error:
            shapes = ", ".join(str(column.shape) for column in columns)
            name = getattr(self.function, "__name__", repr(self.function))
            raise Error(
                f"{name}, called by Rows with columns of shapes {shapes}, raised "
                f"{first_line(error)}. It must return a number, or NaN where it is not defined."
            ) from error


def _on_host(part: Part) -> Part:
    columns = tuple(map(np.asarray, part.columns))
    if part.mask is None:
        return Part(columns, None)
    mask = np.asarray(part.mask)
    return Part(tuple(column[mask] for column in columns), None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """A metric that is a function of sums over the rows: `function(**sums)`.

    `Sums(lambda error, count: (error / count) ** 0.5, {"error": e, "count": n})` is the root of a
    mean. The sums of batches are added on the host in 64 bits.
    """

    function: Callable[..., Any] = field(metadata={"static": True})
    sums: dict[str, Array]

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.function, {name: x + other.sums[name] for name, x in self.sums.items()})

    def value(self) -> Any:
        """The function of the sums."""
        return self.function(**self.sums)
