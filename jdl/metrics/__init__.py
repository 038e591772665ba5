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


def edit_distance(
    predicted: Array, predicted_length: Array, labels: Array, label_length: Array
) -> Array:
    """The fewest insertions, deletions and substitutions between the rows' first `*_length` tokens: (B,) of int32.

    `predicted` is (B, T), `labels` (B, U), the lengths (B,) (Levenshtein, 1966).
    """
    return jax.vmap(_edit_distance)(predicted, predicted_length, labels, label_length)


def _edit_distance(
    predicted: Array, predicted_length: Array, labels: Array, label_length: Array
) -> Array:
    places = jnp.arange(labels.size + 1)

    def longer(distances: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        """From the distances between n predicted tokens and the first 0, 1, ... labels to those of n + 1 tokens."""
        n, token = step
        replaced = distances[:-1] + (labels != token).astype(distances.dtype)
        best = jnp.minimum(distances + 1, jnp.concatenate([distances[:1] + 1, replaced]))
        best = jax.lax.cummin(best - places) + places  # any number of labels left out, all at once
        return jnp.where(n < predicted_length, best, distances), None

    distances, _ = jax.lax.scan(longer, places, (jnp.arange(predicted.size), predicted))
    return distances[label_length]


def error_rate(
    predicted: Array,
    predicted_length: Array,
    labels: Array,
    label_length: Array,
    mask: Array | None = None,
) -> Mean:
    """All edits over all labels of the rows where `mask` (B,) holds: the rate of word, letter or phoneme errors.

    It is above 1 where more has to be taken away than there are labels. Shapes as for `edit_distance`.
    """
    edits = edit_distance(predicted, predicted_length, labels, label_length).astype(jnp.float32)
    weight = jnp.ones(edits.shape, edits.dtype) if mask is None else mask.astype(edits.dtype)
    return Mean((weight * edits).sum(), (weight * label_length.astype(edits.dtype)).sum())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Perplexity:
    """Of a mean of nats a token: the number of equally likely tokens that would be as hard to guess."""

    nats: Mean

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(self.nats + other.nats)

    def value(self) -> Array:
        """exp(total / count)."""
        return jnp.exp(self.nats.value())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Confusion:
    """The confusion matrix: `counts[t, p]` examples of class t were taken for class p.

    A class that was never predicted has precision 0, one that never occurs has recall 0, as in scikit-learn.
    """

    counts: Array  # (K, K) of int32

    @classmethod
    def of(
        cls, predicted: Array, labels: Array, classes: int, mask: Array | None = None
    ) -> Confusion:
        """Counts the pairs of `labels` (B, ...) and `predicted` (B, ...) where `mask`, (B,) or (B, ...), holds."""
        mask = jnp.ones(labels.shape, bool) if mask is None else mask
        ones = jnp.broadcast_to(
            mask.reshape(mask.shape + (1,) * (labels.ndim - mask.ndim)), labels.shape
        )
        return cls(
            jnp.zeros((classes, classes), jnp.int32)
            .at[labels, predicted]
            .add(ones.astype(jnp.int32))
        )

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

    def iou(self) -> Array:
        """Of those that are of a class or taken for it, the share that are both (Jaccard index): (K,)."""
        return _ratio(
            self.counts.diagonal(), self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        )

    def value(self) -> dict[str, Array]:
        """The means over the classes ("macro")."""
        return {
            "precision": self.precision().mean(),
            "recall": self.recall().mean(),
            "f1": self.f1().mean(),
        }


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanIoU:
    """The mean intersection over union of the classes that occur, in labels or predictions: for segmentation."""

    confusion: Confusion

    def __add__(self, other: MeanIoU) -> MeanIoU:
        return MeanIoU(self.confusion + other.confusion)

    def value(self) -> Array:
        """0, with no class at all."""
        iou, counts = self.confusion.iou(), self.confusion.counts
        occurs = (counts.sum(0) + counts.sum(1) > 0).astype(iou.dtype)
        return iou.sum() / occurs.sum().clip(1)


def _ratio(part: Array, whole: Array) -> Array:
    return part / whole.clip(
        1
    )  # methods only: JAX arrays in a step, 64-bit NumPy arrays once merged


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerMember:
    """A metric of each member of a population: its mean, its least and its greatest value."""

    each: tuple[Any, ...]

    def __add__(self, other: PerMember) -> PerMember:
        return PerMember(tuple(a + b for a, b in zip(self.each, other.each, strict=True)))

    def value(self) -> dict[str, Array]:
        """Of a metric that is several numbers, those of each by name."""
        values = [metric.value() for metric in self.each]
        named = values[0] if isinstance(values[0], dict) else {"": values[0]}
        found: dict[str, Array] = {}
        for name in named:
            all_of = jnp.stack(
                [jnp.asarray(v[name] if isinstance(v, dict) else v, jnp.float32) for v in values]
            )
            of = {"mean": all_of.mean(), "min": all_of.min(), "max": all_of.max()}
            found |= {f"{name}/{part}".lstrip("/"): number for part, number in of.items()}
        return found


def scalars(metrics: Metrics) -> dict[str, float]:
    """The metrics as plain numbers, the loss first; a `Confusion` "confusion" becomes "confusion/f1" and so on."""
    numbers: dict[str, float] = {}
    for name, metric in sorted(metrics.items(), key=lambda item: item[0] != "loss"):
        with np.errstate(invalid="ignore"):  # a mean of nothing is NaN
            value = metric.value()
        parts = (
            {f"{name}/{part}": v for part, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        numbers |= {part: float(v) for part, v in parts.items()}
    return numbers


def merge(metrics: list[Metrics]) -> Metrics:
    """The metrics of all of the batches together, summed on the host in 64 bits, where counts stay exact."""
    wide = [jax.tree.map(_wide, m) for m in metrics]
    return {name: reduce(add, (m[name] for m in wide)) for name in wide[0]}


def _wide(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64)
