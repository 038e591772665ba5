"""Metric learning: embeddings in which rows of one class are close (face verification)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.nn as nn
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.keys import stream
from jdl.layers import all_gather_batch, row_numbers
from jdl.objectives import model_call
from jdl.objectives.classification import check_labels
from jdl.objectives.supervised import Supervised, given, target_column
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Metrics, Variables

LARGEST = 1 - 1e-6  # of a cosine: the gradient of its sine is infinite at 1


def triplet(model: Any, margin: float | None = 0.2) -> Triplet:
    """Metric learning by the triplet loss (FaceNet; Schroff et al., 2015), hardest triplets first.

    x (B, ...) to embeddings (B, D), which are normalized, for labels y (B,). Each row is compared
    with the farthest row of its class and the nearest one of another class in the batch
    (batch-hard mining; Hermans et al., 2017): max(0, margin + d(row, farthest) - d(row, nearest)),
    with Euclidean distances from 0 to 2. A row without both in its batch has a loss of 0, so
    batches should have several rows of a class. `margin=None` is the soft margin: softplus(d(row,
    farthest) - d(row, nearest)).

    Predictions: the embedding `code` (B, D), of length 1. Metrics of an evaluation, over all its
    pairs of rows, also of classes that were never trained: auc, eer (equal error rate),
    tar (true accept rate at 1% false accepts) and recall_at_1.
    """
    if margin is not None and not margin >= 0:
        raise Error(f"margin, a distance, must be 0 or more, not {margin}.")
    return Triplet(model, margin)


def arcface(model: Any, classes: int, scale: float = 16.0, margin: float = 0.5) -> ArcFace:
    """ArcFace (Deng et al., 2019): softmax cross-entropy of cosines with an angular margin.

    x (B, ...) to embeddings (B, D) for labels y (B,) from 0 to `classes` - 1. The logits are
    `scale` times the cosines of the embedding and of one center a class; the angle to the center of
    the row's own class is enlarged by `margin`, in radians, which pulls embeddings of a class
    together. Predictions and metrics of an evaluation are those of `triplet`, and hold for classes
    without a row in training too. The loss of these says nothing.
    """
    if classes < 2:
        raise Error(f"classes, their number, must be at least 2, not {classes}.")
    if not (scale > 0 and 0 <= margin < math.pi / 2):
        raise Error(
            "scale must be positive, and margin an angle from 0 to below pi/2; got "
            f"{scale=}, {margin=}."
        )
    return ArcFace(model, classes, scale, margin)


@dataclass(frozen=True, eq=False)
class _MetricLearning(Supervised):
    """What `triplet` and `arcface` have in common: normalized embeddings, and their evaluation."""

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """In evaluation: verification of all pairs of rows, and the class of the nearest row."""
        if train:
            return {}
        predictions = self.predictions(out)
        return {
            "auc": metrics.verification_auc(predictions, batch),
            "eer": metrics.equal_error_rate(predictions, batch),
            "tar": metrics.true_accept_rate(predictions, batch),
            "recall_at_1": metrics.recall_at_1(predictions, batch),
        }

    def predictions(self, out: Array) -> Batch:
        """The embedding (B, D) of each row, of length 1."""
        return {"code": normalized(out)}

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless the model gives embeddings (B, D), and the labels are classes."""
        if len(shape) != 2 or shape[1] < 2:
            raise Error(
                f"It takes embeddings (B, D) of 2 numbers or more, but the model gives {shape}."
            )
        labels = target_column(spec, "Metric learning needs the class of each row, the column y")
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
            raise Error(f"The labels y must be whole numbers (B,), but are {given(labels)}.")


@dataclass(frozen=True, eq=False)
class Triplet(_MetricLearning):
    """Triplet loss with batch-hard mining; see `triplet`."""

    margin: float | None

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each row's hardest triplet; 0 without one."""
        code, labels = normalized(out), batch["y"]
        mask = batch.get("mask", jnp.ones(labels.shape, bool)).astype(bool)
        others, other_labels, real = map(all_gather_batch, (code, labels, mask))
        squared = jnp.square(code[:, None] - others[None]).sum(-1)
        distance = jnp.sqrt(squared.clip(1e-12))  # the gradient of a root is infinite at 0
        same = labels[:, None] == other_labels[None]
        itself = row_numbers(len(labels))[:, None] == jnp.arange(len(other_labels))[None]
        positive, negative = same & real[None] & ~itself, ~same & real[None]
        farthest = jnp.where(positive, distance, -jnp.inf).max(-1)
        nearest = jnp.where(negative, distance, jnp.inf).min(-1)
        found = positive.any(-1) & negative.any(-1)
        excess = jnp.where(found, farthest, 0.0) - jnp.where(found, nearest, 0.0)
        losses = nn.softplus(excess) if self.margin is None else nn.relu(self.margin + excess)
        return jnp.where(found, losses, 0.0)


@dataclass(frozen=True, eq=False)
class ArcFace(_MetricLearning):
    """Softmax cross-entropy with an additive angular margin; see `arcface`."""

    classes: int
    scale: float
    margin: float

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables, and the centers of the classes."""
        variables = super().init(key, batch)
        width = model_call.output_shape(self.model, batch)[-1]
        centers = jax.random.normal(stream(key, "centers"), (self.classes, width))
        return {**variables, "params": {"model": variables["params"], "centers": centers}}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy with the margin, in training and in evaluation alike."""
        inputs = model_call.model_inputs(self.model, batch)
        of_model = model_call.of_model(variables)
        out, model_state = model_call.apply(self.model, of_model, inputs, batch, key, train)
        centers = normalized(variables["params"]["centers"])
        cosines = jnp.matmul(normalized(out), centers.T, precision="highest")
        logits = self.scale * with_margin(cosines, batch["y"], self.margin)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        loss = Mean.of(losses, batch.get("mask"))
        return LossOutput(loss, self.metrics(out, batch, train), model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The embedding `code` (B, D) of each row."""
        return super().predict(model_call.of_model(variables), batch)

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless the model gives embeddings, and there is a class for each label."""
        super().check_targets(shape, spec, bounds)
        check_labels(spec, bounds, (shape[0], self.classes))


def normalized(vectors: Array) -> Array:
    """The vectors (..., D) in float32, divided by their lengths."""
    vectors = vectors.astype(jnp.float32)
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(squares.clip(1e-12))


def with_margin(cosines: Array, labels: Array, margin: float) -> Array:
    """Cosines (B, K) where the angle to the class of the label (B,) is enlarged by `margin`.

    Beyond an angle of pi - margin the enlarged one would be smaller again: there its cosine goes on
    as a line (as in the authors' program).
    """
    cosine = jnp.take_along_axis(cosines, labels[:, None], 1).clip(-LARGEST, LARGEST)
    sine = jnp.sqrt(1 - jnp.square(cosine))
    enlarged = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine < -math.cos(margin)
    enlarged = jnp.where(beyond, cosine - margin * math.sin(margin), enlarged)
    own = labels[:, None] == jnp.arange(cosines.shape[1])[None]
    return jnp.where(own, enlarged, cosines)
