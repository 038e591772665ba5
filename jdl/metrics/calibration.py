"""Calibration of probabilities: expected calibration error (ECE), Brier score and log loss."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jdl.metrics.columns import Columns, ratio, scored
from jdl.types import Array, Error, Mean


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Calibration:
    """Calibration by bins of equal width of the confidence, from which ECE is computed.

    A reliability diagram shows them: it is drawn at the end of a run. Bin m of M has the rows whose
    confidence is above m / M, up to (m + 1) / M.
    """

    weight: Array  # (M,): the rows of each bin, or the sum of their weights
    confidence: Array  # (M,): the sum of their confidences
    correct: Array  # (M,): how many of them are correct

    @classmethod
    def of(
        cls, confidence: Array, correct: Array, bins: int = 15, mask: Array | None = None
    ) -> Calibration:
        """Sums rows (B, ...), `correct` or not, by their `confidence` from 0 to 1.

        A float `mask`, (B,) or (B, ...), is a weight.
        """
        if bins < 1:
            raise Error(f"Calibration needs at least 1 bin, not {bins}.")
        mask = jnp.ones(confidence.shape) if mask is None else mask.astype(jnp.float32)
        mask = mask.reshape(mask.shape + (1,) * (confidence.ndim - mask.ndim))
        weight = jnp.broadcast_to(mask, confidence.shape).ravel()
        confidence = confidence.astype(jnp.float32).ravel()
        real = weight != 0
        place = jnp.searchsorted(_edges(bins), confidence)
        inside = place[:, None] == jnp.arange(bins)[None]  # no scatter: its order of sums may vary

        def total(values: Array) -> Array:
            values = jnp.where(real, values * weight, 0)
            return jnp.where(inside, values[:, None], 0).sum(0)

        correct = correct.astype(jnp.float32).ravel()
        return cls(total(jnp.ones_like(weight)), total(confidence), total(correct))

    def __add__(self, other: Calibration) -> Calibration:
        return jax.tree.map(lambda a, b: a + b, self, other)

    def accuracy(self) -> Array:
        """The accuracy in each bin (M,); 0 in an empty one."""
        return ratio(self.correct, self.weight)

    def mean_confidence(self) -> Array:
        """The mean confidence in each bin (M,); 0 in an empty one."""
        return ratio(self.confidence, self.weight)

    def value(self) -> Array:
        """ECE: the mean over the rows of |accuracy - mean confidence| of their bin."""
        with np.errstate(invalid="ignore"):  # of no rows at all it is NaN
            return abs(self.correct - self.confidence).sum() / self.weight.sum()


def calibration_error(
    predictions: Columns,
    batch: Columns,
    bins: int = 15,
    target: str = "y",
    row_weights: str | None = None,
) -> Calibration:
    """ECE, expected calibration error (Guo et al., 2017): do probabilities mean what they say?

    Of rows that the model is 80% sure of, 80% should be correct: the confidence is that of the
    predicted class. Of several labels a row, each counts as a row, with the probability of 1 and
    whether it is 1. The metric is a `Calibration`, of which a reliability diagram is drawn.
    """
    rows = scored(predictions, batch, target, row_weights)
    if rows.multi_label:
        return Calibration.of(rows.probability, rows.labels, bins, rows.weights)
    correct = rows.probability.argmax(-1).astype(jnp.int32) == rows.labels
    return Calibration.of(rows.probability.max(-1), correct, bins, rows.weights)


def brier(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Mean:
    """Brier score (1950): the mean squared error of the probabilities; 0 is best.

    For two classes it is that of the class 1, from 0 to 1; for more the sum over the classes, from
    0 to 2, as in scikit-learn. Of several labels a row it is the mean over the labels.
    """
    rows = scored(predictions, batch, target, row_weights)
    if rows.multi_label:
        errors = jnp.square(rows.probability - rows.labels)
        return Mean.of(errors, rows.weights)
    classes = rows.probability.shape[-1]
    errors = jnp.square(rows.probability - jax.nn.one_hot(rows.labels, classes)).sum(-1)
    return Mean.of(errors / 2 if classes == 2 else errors, rows.weights)


def log_loss(
    predictions: Columns, batch: Columns, target: str = "y", row_weights: str | None = None
) -> Mean:
    """Log loss: the cross-entropy of the true classes, in nats; without label smoothing.

    Probabilities are taken to be at least 1.2e-7, the resolution of float32, as in scikit-learn.
    """
    rows = scored(predictions, batch, target, row_weights)
    if rows.multi_label:
        raise Error("log_loss is for one class a row, and these rows have several labels each.")
    least = float(jnp.finfo(jnp.float32).eps)
    labels = rows.labels.clip(0)[..., None]  # -1 is unknown, and does not count
    likely = jnp.take_along_axis(rows.probability, labels, -1)[..., 0]
    return Mean.of(-jnp.log(likely.clip(least, 1 - least)), rows.weights)


def _edges(bins: int) -> Array:
    """The inner edges (M - 1,): the largest float32 numbers up to m / M.

    A float32 confidence is then above an edge if it is above m / M.
    """
    exact = np.linspace(0, 1, bins + 1)[1:-1]
    rounded = exact.astype(np.float32)
    return jnp.asarray(np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded))
