"""Classification: softmax cross-entropy, hinge and perceptron losses over K classes, and the binary case."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.objectives import model_call as call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)

RowLoss = Callable[[Array, Array], Array]  # logits (B, K) and labels (B,) to losses (B,)


def classify(
    model: Any, smoothing: float = 0.0, loss: RowLoss | None = None, top: int = 0
) -> Objective:
    """Which of K classes: x (B, ...) to logits (B, K), against whole-number labels y (B,) from 0 to K - 1.

    Dense prediction, a label for each pixel, step or node of a graph, is the same with y (B, ...) and logits (B, ...,
    K); there -1 stands for a label that is not known, and does not count. The loss of a label is the softmax
    cross-entropy in nats, with `smoothing` of the weight spread evenly over the classes (Szegedy et al., 2016), or
    `loss(logits, labels)` where one is given. Metrics: accuracy, with `top` k also top-k accuracy; in evaluation the
    confusion matrix besides, and of dense predictions the mean IoU.
    """
    if not 0 <= smoothing < 1:
        raise Error(
            f"smoothing is a share of the weight, from 0 to below 1, and {smoothing} is not."
        )
    row_loss = loss or partial(_cross_entropy, smoothing)

    def objective_loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        logits, model_state = call.apply(model, variables, call.from_x(batch), batch, key, train)
        labels, mask = batch["y"], batch.get("mask")
        if labels.ndim > 1:
            labels, mask = labels.clip(0), _known(batch)
        found: Metrics = {"accuracy": metrics.accuracy(logits, labels, mask)}
        if top:
            found[f"top{top}"] = metrics.top_k(logits, labels, top, mask)
        if not train:
            confusion = metrics.Confusion.of(logits.argmax(-1), labels, logits.shape[-1], mask)
            found["confusion"] = confusion
            if labels.ndim > 1:
                found["iou"] = metrics.MeanIoU(confusion)
        return LossOutput(Mean.of(row_loss(logits, labels), mask), found, model_state)

    def predict(variables: Variables, batch: Batch) -> Batch:
        logits, _ = call.apply(
            model, variables, call.from_x(batch), batch, jax.random.key(0), False
        )
        return {"label": logits.argmax(-1), "probability": jax.nn.softmax(logits)}

    def check(batch: Batch, bounds: Bounds) -> None:
        _check_labels(batch, bounds, call.output_shape(model, batch))

    return Objective(partial(call.init_from_x, model), objective_loss, predict, check)


def hinge(model: Any) -> Objective:
    """`classify` by the margin: max over k of (1 if k is not y) + logits_k - logits_y (Crammer and Singer, 2001)."""
    return classify(model, loss=optax.losses.multiclass_hinge_loss)


def perceptron(model: Any) -> Objective:
    """`classify` by the perceptron rule: max over k of logits_k - logits_y (Rosenblatt, 1958, for K classes)."""
    return classify(model, loss=optax.losses.multiclass_perceptron_loss)


def classify_binary(model: Any) -> Objective:
    """Yes or no: x (B, ...) to a logit (B, 1), against y (B,) of 0 and 1, by binary cross-entropy in nats.

    Metrics: accuracy; in evaluation the confusion matrix of the threshold 1/2 besides.
    """

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        out, model_state = call.apply(model, variables, call.from_x(batch), batch, key, train)
        logits, labels, mask = out[:, 0], batch["y"], batch.get("mask")
        predicted = (logits > 0).astype(jnp.int32)
        found: Metrics = {"accuracy": Mean.of((predicted == labels).astype(jnp.float32), mask)}
        if not train:
            found["confusion"] = metrics.Confusion.of(predicted, labels, 2, mask)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
        return LossOutput(Mean.of(losses, mask), found, model_state)

    def predict(variables: Variables, batch: Batch) -> Batch:
        out, _ = call.apply(model, variables, call.from_x(batch), batch, jax.random.key(0), False)
        yes = jax.nn.sigmoid(out[:, 0])
        return {
            "label": (yes > 0.5).astype(jnp.int32),
            "probability": jnp.stack([1 - yes, yes], -1),
        }

    def check(batch: Batch, bounds: Bounds) -> None:
        shape = call.output_shape(model, batch)
        if shape[1:] != (1,):
            raise Error(
                f"classify_binary needs a model with one output a row, (B, 1), and this one gives {shape}."
            )
        _check_labels(batch, bounds, (shape[0], 2))

    return Objective(partial(call.init_from_x, model), loss, predict, check)


def _known(batch: Batch) -> Array:
    """Where the labels (B, ...) are real and known."""
    known, steps = batch["y"] >= 0, call.steps(batch)
    if steps is None:
        return known
    return known & steps.astype(bool).reshape(steps.shape + (1,) * (known.ndim - steps.ndim))


def _cross_entropy(smoothing: float, logits: Array, labels: Array) -> Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    return (1 - smoothing) * losses - smoothing * jax.nn.log_softmax(logits).mean(-1)


def _check_labels(batch: Batch, bounds: Bounds, logits: tuple[int, ...]) -> None:
    labels, classes = batch.get("y"), logits[-1]
    if (
        labels is None
        or not jnp.issubdtype(labels.dtype, jnp.integer)
        or labels.shape != logits[:-1]
    ):
        given = (
            "there is no such column"
            if labels is None
            else f"it is {labels.dtype} of shape {labels.shape}"
        )
        raise Error(
            f"The labels y must be whole numbers of shape {logits[:-1]}, as logits are {logits}, and {given}."
        )
    least, greatest = bounds.get("y", (0, classes - 1))
    if least < -(labels.ndim > 1) or greatest >= classes:
        raise Error(
            f"The labels y run from {least} to {greatest}, and the model has {classes} outputs, for the labels 0 to "
            f"{classes - 1}: mend the labels, or give the model {int(greatest) + 1} outputs."
        )
