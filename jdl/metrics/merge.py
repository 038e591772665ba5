"""Merging metrics exactly: of batches, micro-batches, devices and members of a population."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.metrics.rows import Rows
from jdl.types import Array, Error, Metrics


def merge(metrics: list[Metrics]) -> Metrics:
    """The metrics of all batches together, added on the host in 64 bits: counts are exact."""
    wide = [jax.tree.map(_on_host, m, is_leaf=_is_rows) for m in metrics]
    return {name: _sum([m[name] for m in wide]) for name in wide[0]}


def _sum(parts: list[Any]) -> Any:
    """The parts added up; rows in pairs, as each sum copies the list of its parts."""
    if any(map(_is_rows, jax.tree.leaves(parts[0], is_leaf=_is_rows))):
        while len(parts) > 1:
            parts = [reduce(add, parts[k : k + 2]) for k in range(0, len(parts), 2)]
    return reduce(add, parts)


def _is_rows(leaf: Any) -> bool:
    return isinstance(leaf, Rows)


def _on_host(leaf: Any) -> Any:
    """An array in 64 bits; rows, which are many and are not added up, as they are."""
    if isinstance(leaf, Rows):
        return leaf.on_host()
    array = np.asarray(leaf)
    return array.astype(np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64)


def scalars(metrics: Metrics) -> dict[str, float]:
    """The metrics as Python floats, the loss first.

    A metric of several numbers, like the `Confusion` "confusion", becomes "confusion/f1" and so on.
    """
    numbers: dict[str, float] = {}
    for name, metric in sorted(metrics.items(), key=lambda item: item[0] != "loss"):
        try:
            with np.errstate(invalid="ignore"):  # a mean of nothing is NaN
                value = metric.value()
        except Error as error:
            raise Error(f"The metric {name}: {error}") from error
        if isinstance(value, dict):
            numbers |= {f"{name}/{part}": float(v) for part, v in value.items()}
        else:
            numbers[name] = float(value)
    return numbers


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerMember:
    """A metric of each member of a population (an ensemble), and its statistics over the members.

    The interquartile mean (Agarwal et al., 2021) is the mean without the quarter of the members
    with the lowest and the quarter with the highest numbers, each rounded down: of five seeds, the
    mean of the middle three.
    """

    members: tuple[Any, ...]

    def __add__(self, other: PerMember) -> PerMember:
        pairs = zip(self.members, other.members, strict=True)
        return PerMember(tuple(a + b for a, b in pairs))

    def value(self) -> dict[str, Array]:
        """Mean, iqm (interquartile mean), min and max over the members.

        For a metric of several numbers, they are of each number, by its name.
        """
        values = [metric.value() for metric in self.members]
        if not isinstance(values[0], dict):
            return _statistics(values)
        return {
            f"{name}/{statistic}": number
            for name in values[0]
            for statistic, number in _statistics([v[name] for v in values]).items()
        }


def _statistics(values: list[Any]) -> dict[str, Array]:
    stacked = jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
    mean, cut = stacked.mean(), len(values) // 4
    middle = jnp.sort(stacked)[cut : len(values) - cut]
    # NaN comes last in the order, and must not be cut off.
    iqm = jnp.where(jnp.isnan(mean), mean, middle.mean())
    return {"mean": mean, "iqm": iqm, "min": stacked.min(), "max": stacked.max()}
