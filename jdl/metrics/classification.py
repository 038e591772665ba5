"""Classification metrics: accuracy, the confusion matrix and what is computed of it, and IoU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdl.metrics.columns import Columns, column, ratio, scored
from jdl.metrics.rows import Sums
from jdl.types import Array, Error, Mean, Metric


def accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Mean:
    """Accuracy: the share of labels (B, ...) that have the largest of the logits (B, ..., K)."""
    return Mean.of((logits.argmax(-1) == labels).astype(jnp.float32), mask)


def top_k(logits: Array, labels: Array, k: int, mask: Array | None = None) -> Mean:
    """Top-k accuracy: the share of labels (B, ...) among the k largest logits (B, ..., K)."""
    _, indices = jax.lax.top_k(logits, k)
    return Mean.of((indices == labels[..., None]).any(-1).astype(jnp.float32), mask)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Confusion:
    """The confusion matrix: `counts[t, p]` examples of class t were predicted as class p.

    A class that is never predicted has precision 0, one that never occurs has recall 0, as in
    scikit-learn.
    """

    counts: Array  # (K, K) of int32, or float32 if the rows have weights

    @classmethod
    def of(
        cls, predicted: Array, labels: Array, classes: int, mask: Array | None = None
    ) -> Confusion:
        """Counts labels and predictions (B, ...) whose `mask`, (B,) or (B, ...), is true.

        A float mask is a weight.
        """
        mask = jnp.ones(labels.shape, bool) if mask is None else mask
        mask = mask.reshape(mask.shape + (1,) * (labels.ndim - mask.ndim))
        if jnp.issubdtype(mask.dtype, jnp.floating):
            weight = jnp.broadcast_to(mask, labels.shape).astype(jnp.float32).ravel()
            true, guess = (jax.nn.one_hot(k.ravel(), classes) for k in (labels, predicted))
            # No scatter, as below: on a GPU its order of sums, and with it the bits, may vary.
            return cls(jnp.matmul((weight[:, None] * true).T, guess, precision="highest"))
        ones = jnp.broadcast_to(mask, labels.shape).astype(jnp.int32)
        return cls(jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(ones))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def accuracy(self) -> Array:
        """Accuracy: the share of examples on the diagonal."""
        return ratio(self.counts.trace(), self.counts.sum())

    def precision(self) -> Array:
        """Precision of each class (K,): true positives over predicted positives."""
        return ratio(self.counts.diagonal(), self.counts.sum(0))

    def recall(self) -> Array:
        """Recall of each class (K,): true positives over actual positives."""
        return ratio(self.counts.diagonal(), self.counts.sum(1))

    def f1(self) -> Array:
        """F1 score of each class (K,): the harmonic mean of precision and recall."""
        return ratio(2 * self.counts.diagonal(), self.counts.sum(0) + self.counts.sum(1))

    def iou(self) -> Array:
        """IoU, intersection over union (Jaccard index), of each class (K,)."""
        intersection = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        return ratio(intersection, union)

    def balanced_accuracy(self) -> Array:
        """Balanced accuracy: the mean recall of the classes that occur."""
        recall = self.recall()
        occurs = (self.counts.sum(1) > 0).astype(recall.dtype)
        with np.errstate(invalid="ignore"):  # of no rows at all it is NaN
            return recall.sum() / occurs.sum()

    def matthews(self) -> Array:
        """MCC, Matthews correlation coefficient (1975), for K classes (Gorodkin, 2004).

        From -1 to 1; 0 where labels or predictions are all of one class.
        """
        shares = ratio(self.counts, self.counts.sum())
        predicted, true = shares.sum(0), shares.sum(1)
        covariance = shares.trace() - (true * predicted).sum()
        variances = (1 - (true * true).sum()) * (1 - (predicted * predicted).sum())
        return ratio(covariance * (variances > 0).astype(shares.dtype), variances**0.5)

    def kappa(self, distance: Literal["linear", "quadratic"] | None = None) -> Array:
        """Cohen's kappa (1960): agreement beyond chance, 1 at best, 0 as by chance.

        With `distance` (weighted kappa; Cohen, 1968) the distance of ordered classes counts, or its
        square. NaN where labels and predictions are all of the same class.
        """
        if distance not in (None, "linear", "quadratic"):
            raise Error(f'distance must be "linear" or "quadratic" or None, not {distance!r}.')
        shares = ratio(self.counts, self.counts.sum())
        classes = np.arange(len(self.counts))
        ranks = abs(classes[:, None] - classes[None])
        cost = {None: np.minimum(ranks, 1), "linear": ranks, "quadratic": ranks**2}
        disagreement = cost[distance].astype(shares.dtype)
        by_chance = shares.sum(1)[:, None] * shares.sum(0)[None]
        with np.errstate(invalid="ignore"):
            return 1 - (disagreement * shares).sum() / (disagreement * by_chance).sum()

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


def balanced_accuracy(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Sums:
    """Balanced accuracy: the mean recall of the classes that occur; see `Confusion`."""
    return _of_confusion(Confusion.balanced_accuracy, predictions, batch, target, row_weights)


def matthews(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Sums:
    """MCC, the Matthews correlation coefficient, also for many classes; see `Confusion`."""
    return _of_confusion(Confusion.matthews, predictions, batch, target, row_weights)


def cohen_kappa(
    predictions: Columns,
    batch: Columns,
    distance: Literal["linear", "quadratic"] | None = None,
    target: str = "y",
    row_weights: str | None = None,
) -> Sums:
    """Cohen's kappa: agreement beyond chance; `distance="quadratic"` for ordered classes."""
    kappa = partial(Confusion.kappa, distance=distance)
    return _of_confusion(kappa, predictions, batch, target, row_weights)


def one_vs_rest(
    metric: Callable[[Columns, Columns], Metric], k: int, target: str = "y"
) -> Callable[[Columns, Columns], Metric]:
    """The metric of class k against all others (one-vs-rest): `one_vs_rest(roc_auc, 3)`.

    There are two classes then: 1 is k, and 0 is all others together, whose probabilities are
    added. A row is predicted as 1 where k is the likeliest of all classes. The labels in the column
    `target` are whole numbers.
    """

    def of_batch(predictions: Columns, batch: Columns) -> Metric:
        probability = jnp.asarray(column(predictions, "probability", "predictions"))[..., k]
        label = jnp.asarray(column(predictions, "label", "predictions")) == k
        labels = jnp.asarray(column(batch, target, "batch"))
        two = jnp.stack([1 - probability, probability], -1)
        of_k = jnp.where(labels < 0, labels, (labels == k).astype(labels.dtype))
        return metric(
            {"probability": two, "label": label.astype(jnp.int32)}, {**batch, target: of_k}
        )

    return of_batch


def _of_confusion(
    method: Callable[[Confusion], Any],
    predictions: Columns,
    batch: Columns,
    target: str,
    row_weights: str | None,
) -> Sums:
    """A method of the confusion matrix of the predicted labels, as a metric."""
    rows = scored(predictions, batch, target, row_weights)
    if rows.multi_label:
        raise Error("This metric is for one class a row, and these rows have several labels each.")
    label = jnp.asarray(column(predictions, "label", "predictions")).astype(jnp.int32)
    classes = rows.probability.shape[-1]
    counts = Confusion.of(label, rows.labels.clip(0), classes, rows.weights).counts
    return Sums(partial(_apply, method), {"counts": counts})


def _apply(method: Callable[[Confusion], Any], counts: Array) -> Any:
    return method(Confusion(counts))
