"""Ordinal regression (ordinal classification): labels with an order, such as grades or stars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl import metrics
from jdl.objectives.classification import check_labels
from jdl.objectives.supervised import Supervised
from jdl.types import Array, Batch, Bounds, Error, Mean, Metrics


def ordinal(model: Any, row_weights: str | None = None) -> Ordinal:
    """Ordinal regression by conditional logits (CORN; Shi, Cao and Raschka, 2021).

    x (B, ...) to logits (B, K - 1), for labels y (B,) from 0 to K - 1 that have an order. Logit k
    is that of P(y > k | y >= k), a continuation-ratio model, so that any model with K - 1 outputs
    has ranks that do not contradict each other. The loss is -log P(y) in nats: CORN's, divided by
    the number of rows. `row_weights` names a column (B,) of sample weights; the loss is divided by
    their sum, and metrics count all rows equally. The predicted label is the median, the number of
    ranks k with P(y > k) above 1/2. Metrics: accuracy and mae, the mean absolute error in
    ranks; in evaluation also the confusion matrix.
    """
    return Ordinal(model, row_weights=row_weights)


@dataclass(frozen=True, eq=False)
class Ordinal(Supervised):
    """Ordinal regression; see `ordinal`."""

    def losses(self, out: Array, batch: Batch) -> Array:
        """-log P(y) of each row: the log-likelihood of y passed thresholds and one not passed."""
        rank, ranks = batch["y"][:, None], jnp.arange(out.shape[-1])[None]
        above = jnp.where(ranks < rank, jax.nn.log_sigmoid(out), 0)
        stays = jnp.where(ranks == rank, jax.nn.log_sigmoid(-out), 0)
        return -(above + stays).sum(-1)

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """Accuracy and mean absolute error; in evaluation also the confusion matrix."""
        labels, predicted, mask = batch["y"], _median(_survival(out)), batch.get("mask")
        scores: Metrics = {
            "accuracy": Mean.of((predicted == labels).astype(jnp.float32), mask),
            "mae": Mean.of(jnp.abs(predicted - labels), mask),
        }
        if not train:
            classes = out.shape[-1] + 1
            scores["confusion"] = metrics.Confusion.of(predicted, labels, classes, mask)
        return scores

    def predictions(self, out: Array) -> Batch:
        """The median label (B,) and the probabilities (B, K) of each row."""
        survival = _survival(out)
        edge = jnp.ones_like(survival[:, :1])
        bounds = jnp.concatenate([edge, survival, 0 * edge], -1)
        return {"label": _median(survival), "probability": bounds[:, :-1] - bounds[:, 1:]}

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless labels are whole numbers from 0 to the number of outputs."""
        if len(shape) != 2:
            raise Error(f"ordinal needs a model with K - 1 outputs a row, but it gives {shape}.")
        try:
            check_labels(spec, bounds, (shape[0], shape[1] + 1))
        except Error as error:
            raise Error(f"{error} (ordinal takes one output fewer than labels.)") from error


def _survival(out: Array) -> Array:
    """P(y > k) of each rank k (B, K - 1): it never rises with k."""
    return jnp.exp(jax.nn.log_sigmoid(out).cumsum(-1))


def _median(survival: Array) -> Array:
    return (survival > 0.5).astype(jnp.int32).sum(-1)
