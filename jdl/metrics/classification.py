"""Classification metrics: accuracy, the confusion matrix with precision, recall and F1, and IoU."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.types import Array, Mean


def accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Mean:
    """Accuracy: the share of labels (B, ...) that have the largest of the logits (B, ..., K)."""
    return Mean.of((logits.argmax(-1) == labels).astype(jnp.float32), mask)


def top_k(logits: Array, labels: Array, k: int, mask: Array | None = None) -> Mean:
    """Top-k accuracy: the share of labels (B,) among the k largest of the logits (B, K)."""
    _, indices = jax.lax.top_k(logits, k)
    return Mean.of((indices == labels[:, None]).any(-1).astype(jnp.float32), mask)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Confusion:
    """The confusion matrix: `counts[t, p]` examples of class t were predicted as class p.

    A class that is never predicted has precision 0, one that never occurs has recall 0, as in
    scikit-learn.
    """

    counts: Array  # (K, K) of int32

    @classmethod
    def of(
        cls, predicted: Array, labels: Array, classes: int, mask: Array | None = None
    ) -> Confusion:
        """Counts labels and predictions (B, ...) whose `mask`, (B,) or (B, ...), is true."""
        mask = jnp.ones(labels.shape, bool) if mask is None else mask
        mask = mask.reshape(mask.shape + (1,) * (labels.ndim - mask.ndim))
        ones = jnp.broadcast_to(mask, labels.shape).astype(jnp.int32)
        return cls(jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(ones))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def accuracy(self) -> Array:
        """Accuracy: the share of examples on the diagonal."""
        return _ratio(self.counts.trace(), self.counts.sum())

    def precision(self) -> Array:
        """Precision of each class (K,): true positives over predicted positives."""
        return _ratio(self.counts.diagonal(), self.counts.sum(0))

    def recall(self) -> Array:
        """Recall of each class (K,): true positives over actual positives."""
        return _ratio(self.counts.diagonal(), self.counts.sum(1))

    def f1(self) -> Array:
        """F1 score of each class (K,): the harmonic mean of precision and recall."""
        return _ratio(2 * self.counts.diagonal(), self.counts.sum(0) + self.counts.sum(1))

    def iou(self) -> Array:
        """IoU, intersection over union (Jaccard index), of each class (K,)."""
        intersection = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        return _ratio(intersection, union)

    def value(self) -> dict[str, Array]:
        """Precision, recall and F1, each the unweighted mean over the classes ("macro")."""
        return {
            "precision": self.precision().mean(),
            "recall": self.recall().mean(),
            "f1": self.f1().mean(),
        }


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanIoU:
    """Mean IoU (intersection over union), for segmentation: over the classes that occur.

    A class occurs if it is in the labels or in the predictions.
    """

    confusion: Confusion

    def __add__(self, other: MeanIoU) -> MeanIoU:
        return MeanIoU(self.confusion + other.confusion)

    def value(self) -> Array:
        """The mean; 0 where there is no class at all."""
        iou, counts = self.confusion.iou(), self.confusion.counts
        occurs = (counts.sum(0) + counts.sum(1) > 0).astype(iou.dtype)
        return iou.sum() / occurs.sum().clip(1)


def _ratio(part: Array, whole: Array) -> Array:
    # No `jnp` functions: these are JAX arrays in a step, 64-bit NumPy arrays after merging.
    return part / whole.clip(1)
