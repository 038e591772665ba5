"""Metrics as counts that merge exactly: of batches, micro-batches and devices, in any grouping."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.types import Array, Mean, Metrics


def accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Mean:
    """How often the greatest of `logits` (B, K) stands at `labels` (B,)."""
    return Mean.of((logits.argmax(-1) == labels).astype(jnp.float32), mask)


def top_k(logits: Array, labels: Array, k: int, mask: Array | None = None) -> Mean:
    """How often `labels` (B,) is among the k greatest of `logits` (B, K)."""
    _, places = jax.lax.top_k(logits, k)
    return Mean.of((places == labels[:, None]).any(-1).astype(jnp.float32), mask)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Confusion:
    """The confusion matrix: `counts[t, p]` examples of class t were taken for class p.

    A class that was never predicted has precision 0, one that never occurs has recall 0, as in scikit-learn.
    """

    counts: Array  # (K, K) of int32

    @classmethod
    def of(cls, predicted: Array, labels: Array, classes: int, mask: Array | None = None) -> Confusion:
        """Counts the pairs of `labels` (B,) and `predicted` (B,) in the rows where `mask` (B,) holds."""
        ones = jnp.ones(labels.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
        return cls(jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(ones))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def accuracy(self) -> Array:
        """The share of examples on the diagonal."""
        return _ratio(self.counts.trace(), self.counts.sum())

    def precision(self) -> Array:
        """Of those taken for a class, the share that are of it: (K,)."""
        return _ratio(self.counts.diagonal(), self.counts.sum(0))

    def recall(self) -> Array:
        """Of those of a class, the share taken for it: (K,)."""
        return _ratio(self.counts.diagonal(), self.counts.sum(1))

    def f1(self) -> Array:
        """The harmonic mean of precision and recall: (K,)."""
        return _ratio(2 * self.counts.diagonal(), self.counts.sum(0) + self.counts.sum(1))

    def value(self) -> dict[str, Array]:
        """The means over the classes ("macro")."""
        return {"precision": self.precision().mean(), "recall": self.recall().mean(), "f1": self.f1().mean()}


def _ratio(part: Array, whole: Array) -> Array:
    return part / whole.clip(1)  # methods only: JAX arrays in a step, 64-bit NumPy arrays once merged


def scalars(metrics: Metrics) -> dict[str, float]:
    """The metrics as plain numbers, the loss first; a `Confusion` "confusion" becomes "confusion/f1" and so on."""
    numbers: dict[str, float] = {}
    for name, metric in sorted(metrics.items(), key=lambda item: item[0] != "loss"):
        value = metric.value()
        parts = {f"{name}/{part}": v for part, v in value.items()} if isinstance(value, dict) else {name: value}
        numbers |= {part: float(v) for part, v in parts.items()}
    return numbers


def merge(metrics: list[Metrics]) -> Metrics:
    """The metrics of all of the batches together, summed on the host in 64 bits, where counts stay exact."""
    wide = [jax.tree.map(_wide, m) for m in metrics]
    return {name: reduce(add, (m[name] for m in wide)) for name in wide[0]}


def _wide(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64)
