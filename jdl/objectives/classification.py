"""Classification: softmax cross-entropy, hinge and perceptron losses, and binary cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.objectives import model_call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Variables,
)

RowLoss = Callable[[Array, Array], Array]  # (logits (..., K), labels (...)) -> losses (...)


def classify(
    model: Any, smoothing: float = 0.0, loss: RowLoss | None = None, top: int = 0
) -> Classification:
    """Classification by softmax cross-entropy, into K classes.

    x (B, ...) to logits (B, K), for whole-number labels y (B,) from 0 to K - 1. Dense prediction
    (semantic segmentation, sequence tagging, node classification) is the same with labels y (B,
    ...) and logits (B, ..., K); there, the label -1 is unknown and ignored. `smoothing` is
    label smoothing (Szegedy et al., 2016); `loss(logits, labels)` replaces the cross-entropy, which
    is in nats. Metrics: accuracy, with `top` k also top-k accuracy; in evaluation the confusion
    matrix (precision, recall, F1), and for dense prediction the mean IoU.
    """
    if not 0 <= smoothing < 1:
        raise Error(f"smoothing, the label smoothing, must be from 0 to below 1, got {smoothing}.")
    return Classification(model, loss or partial(_cross_entropy, smoothing), top)


def hinge(model: Any) -> Classification:
    """Classification by the multi-class hinge loss, as in an SVM (Crammer and Singer, 2001).

    The loss is max over k of (1 if k is not y) + logits_k - logits_y.
    """
    return classify(model, loss=optax.losses.multiclass_hinge_loss)


def perceptron(model: Any) -> Classification:
    """Classification by the perceptron loss (Rosenblatt, 1958): max_k logits_k - logits_y."""
    return classify(model, loss=optax.losses.multiclass_perceptron_loss)


@dataclass(frozen=True, eq=False)
class Classification(model_call.ModelObjective):
    """Classification into K classes; see `classify`."""

    row_loss: RowLoss
    top: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean loss of the known labels, and the metrics."""
        inputs = model_call.model_inputs(self.model, batch)
        logits, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        labels, mask = batch["y"], batch.get("mask")
        if labels.ndim > 1:
            labels, mask = labels.clip(0), _known(batch)
        scores: Metrics = {"accuracy": metrics.accuracy(logits, labels, mask)}
        if self.top:
            scores[f"top{self.top}"] = metrics.top_k(logits, labels, self.top, mask)
        if not train:
            classes = logits.shape[-1]
            confusion = metrics.Confusion.of(logits.argmax(-1), labels, classes, mask)
            scores["confusion"] = confusion
            if labels.ndim > 1:
                scores["iou"] = metrics.MeanIoU(confusion)
        return LossOutput(Mean.of(self.row_loss(logits, labels), mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The likeliest label (B,) and the probabilities (B, K) of each row."""
        logits = model_call.evaluate(self.model, variables, batch)
        return {"label": logits.argmax(-1), "probability": jax.nn.softmax(logits)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if labels are not whole numbers, or the model has no output for them."""
        _check_labels(spec, bounds, model_call.output_shape(self.model, spec))


def classify_binary(model: Any) -> BinaryClassification:
    """Binary classification by binary cross-entropy (BCE).

    x (B, ...) to a logit (B, 1), for labels y (B,) of 0 and 1. Metrics: accuracy; in evaluation
    also the confusion matrix at the threshold 1/2.
    """
    return BinaryClassification(model)


@dataclass(frozen=True, eq=False)
class BinaryClassification(model_call.ModelObjective):
    """Binary classification; see `classify_binary`."""

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean binary cross-entropy in nats, and the metrics."""
        inputs = model_call.model_inputs(self.model, batch)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        logits, labels, mask = out[:, 0], batch["y"], batch.get("mask")
        predicted = (logits > 0).astype(jnp.int32)
        correct = (predicted == labels).astype(jnp.float32)
        scores: Metrics = {"accuracy": Mean.of(correct, mask)}
        if not train:
            scores["confusion"] = metrics.Confusion.of(predicted, labels, 2, mask)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
        return LossOutput(Mean.of(losses, mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The label (B,) and the probabilities (B, 2) of the labels 0 and 1."""
        yes = jax.nn.sigmoid(model_call.evaluate(self.model, variables, batch)[:, 0])
        label = (yes > 0.5).astype(jnp.int32)
        return {"label": label, "probability": jnp.stack([1 - yes, yes], -1)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model does not give one logit a row, or labels are not 0 and 1."""
        shape = model_call.output_shape(self.model, spec)
        if shape[1:] != (1,):
            raise Error(
                "classify_binary needs a model with one output a row, (B, 1), but this one gives "
                f"{shape}."
            )
        _check_labels(spec, bounds, (shape[0], 2))


def _known(batch: Batch) -> Array:
    """The mask (B, ...) of labels that are known, and not padding."""
    known, real = batch["y"] >= 0, model_call.time_mask(batch)
    if real is None:
        return known
    return known & real.astype(bool).reshape(real.shape + (1,) * (known.ndim - real.ndim))


def _cross_entropy(smoothing: float, logits: Array, labels: Array) -> Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    return (1 - smoothing) * losses - smoothing * jax.nn.log_softmax(logits).mean(-1)


def _check_labels(spec: Batch, bounds: Bounds, logits: tuple[int, ...]) -> None:
    labels, classes = spec.get("y"), logits[-1]
    integer = labels is not None and jnp.issubdtype(labels.dtype, jnp.integer)
    if labels is None or not integer or labels.shape != logits[:-1]:
        given = "there is no such column"
        if labels is not None:
            given = f"it is {labels.dtype} of shape {labels.shape}"
        raise Error(
            f"The labels y must be whole numbers of shape {logits[:-1]}, as the logits are "
            f"{logits}, but {given}."
        )
    least, greatest = bounds.get("y", (0, classes - 1))
    if least < -(labels.ndim > 1) or greatest >= classes:
        raise Error(
            f"The labels y are from {least} to {greatest}, but the model has {classes} outputs, "
            f"for the labels 0 to {classes - 1}: correct the labels, or give the model "
            f"{int(greatest) + 1} outputs."
        )
