"""Multi-label classification: several labels a row, by sigmoid cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.metrics import MultiLabelF1
from jdl.objectives.classification import known_labels
from jdl.objectives.regression import ElementLoss
from jdl.objectives.supervised import Supervised, given, target_column
from jdl.objectives.weights import ClassWeights, check_class_weights, class_weights_of
from jdl.types import Array, Batch, Bounds, Error, Mean, Metrics


def multi_label(
    model: Any,
    threshold: float | Sequence[float] = 0.5,
    loss: ElementLoss = optax.sigmoid_binary_cross_entropy,
    positive_weights: ClassWeights | None = None,
    row_weights: str | None = None,
) -> MultiLabel:
    """Multi-label classification by sigmoid (binary) cross-entropy: any number of K labels a row.

    x (B, ...) to logits (B, K), for y (B, K) of 0 and 1; the label -1 is unknown and ignored, and
    numbers between 0 and 1 are soft labels, such as mixup's. The loss is the mean over the known
    labels, in nats. `loss(logits, labels)`, such as `optax.sigmoid_focal_loss`, replaces the
    cross-entropy. `positive_weights` are K factors of the losses of ones, against rare labels:
    the loss is still divided by the number of labels, so that its scale does not depend on those of
    a batch, as PyTorch's `pos_weight` has it; that of a soft label y is multiplied by
    1 + y * (weight - 1). `row_weights` names a column (B,) of sample
    weights, by whose sum it is divided; the metrics count all rows equally. A label is predicted
    where its probability reaches `threshold`: one number, or one for each label. Metrics:
    accuracy by label (1 - Hamming loss); in evaluation also exact_match (subset accuracy), the
    share of rows whose known labels are all right, and the micro and macro F1 score.
    """
    thresholds = (threshold,) if isinstance(threshold, int | float) else tuple(threshold)
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise Error(
            f"Thresholds are probabilities above 0 and at most 1, not {threshold}. Of a label "
            "whose best threshold is NaN, choose one: np.nan_to_num(thresholds, nan=0.5)."
        )
    weights = class_weights_of(positive_weights, "positive_weights")
    return MultiLabel(model, thresholds, loss, weights, row_weights=row_weights)


@dataclass(frozen=True, eq=False)
class MultiLabel(Supervised):
    """Multi-label classification; see `multi_label`."""

    thresholds: tuple[float, ...]  # one for all labels, or one for each
    element_loss: ElementLoss
    positive_weights: tuple[float, ...]

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each label: the binary cross-entropy in nats, or another one."""
        labels = batch["y"].clip(0).astype(out.dtype)
        losses = self.element_loss(out, labels)
        if not self.positive_weights:
            return losses
        return losses * (1 + labels * (jnp.asarray(self.positive_weights, out.dtype)[None] - 1))

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """The accuracy by label; in evaluation also exact matches and F1."""
        predicted, labels = self._decide(jax.nn.sigmoid(out)), batch["y"].astype(out.dtype) >= 0.5
        known = self.known(out, batch)
        right = predicted == labels
        scores: Metrics = {"accuracy": Mean.of(right.astype(jnp.float32), known)}
        if not train:
            exact = (right | ~known).all(-1).astype(jnp.float32)
            scores["exact_match"] = Mean.of(exact, known.any(-1))
            scores["f1"] = MultiLabelF1.of(predicted, labels, known)
        return scores

    def predictions(self, out: Array) -> Batch:
        """The labels (B, K), 0 or 1, and the probabilities (B, K) that they are 1."""
        probability = jax.nn.sigmoid(out)
        return {"label": self._decide(probability).astype(jnp.int32), "probability": probability}

    def known(self, out: Array, batch: Batch) -> Array:
        """The mask (B, K) of the labels that are not -1, in real rows."""
        return known_labels(batch["y"], batch.get("mask"))

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if labels are not 0, 1 or -1, one for each output of the model."""
        needed = f"The labels y must be 0, 1 or -1 for unknown, and (B, K) like the logits {shape}"
        labels = target_column(spec, needed)
        if len(shape) != 2 or labels.shape != shape:
            raise Error(f"{needed}, but they are {given(labels)}.")
        least, greatest = bounds.get("y", (0, 1))
        if least < -1 or greatest > 1:
            raise Error(f"{needed}, but they are from {least} to {greatest}.")
        check_class_weights(self.positive_weights, shape[1], "positive_weights")
        if len(self.thresholds) not in (1, shape[1]):
            raise Error(
                f"There are {len(self.thresholds)} thresholds, but {shape[1]} labels: give one "
                "for all, or one for each."
            )

    def _decide(self, probability: Array) -> Array:
        return probability >= jnp.asarray(self.thresholds, probability.dtype)[None]
