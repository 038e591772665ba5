"""Ranking metrics, exact over all rows of an evaluation: ROC AUC and average precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jdl.metrics.columns import Columns, scored
from jdl.metrics.rows import Rows
from jdl.types import Array, Error, Metric

Average = Literal["macro", "weighted"]
Binary = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]


def roc_auc(
    predictions: Columns,
    batch: Columns,
    average: Average = "macro",
    target: str = "y",
    row_weights: str | None = None,
) -> Rows:
    """ROC AUC: the area under the receiver operating characteristic curve (Hanley, McNeil, 1982).

    The probability that a random row of the class 1 gets a higher score than one of the class 0,
    where ties count half. For K classes, or K labels a row, it is the mean over one class against
    the rest: each alike ("macro"), or by its number of rows ("weighted"). NaN where a class has no
    row or all of them, as in scikit-learn. Exact: see `Rows` for the memory.
    """
    return _ranked(binary_auc, predictions, batch, average, target, row_weights)


def average_precision(
    predictions: Columns,
    batch: Columns,
    average: Average = "macro",
    target: str = "y",
    row_weights: str | None = None,
) -> Rows:
    """Average precision (AP): the area under the precision-recall curve, as a sum of steps.

    The sum over thresholds of the precision times the gain in recall. Of several classes or labels
    it is the mean, as in `roc_auc`. 0 where a class has no row, as in scikit-learn. Exact: see
    `Rows` for the memory.
    """
    return _ranked(_binary_average_precision, predictions, batch, average, target, row_weights)


def of_score(
    metric: Callable[[Columns, Columns], Metric], score: Callable[[Columns], Array]
) -> Callable[[Columns, Columns], Metric]:
    """The metric, `roc_auc` or `average_precision`, of a score in place of a probability.

    `score(predictions)` gives a number for each row (B,), higher for the class 1. For anomaly
    detection, where y is 1 for an anomaly: `of_score(roc_auc, lambda p: -p["log_prob"])` of a
    normalizing flow, or `lambda p: p["reconstruction_error"]` of an autoencoder.
    """

    def of_batch(predictions: Columns, batch: Columns) -> Metric:
        scores = score(predictions)
        return metric({"probability": jnp.stack([-scores, scores], -1)}, batch)

    return of_batch


def _ranked(
    binary: Binary,
    predictions: Columns,
    batch: Columns,
    average: Average,
    target: str,
    row_weights: str | None,
) -> Rows:
    if average not in ("macro", "weighted"):
        raise Error(f'average must be "macro" or "weighted", not {average!r}.')
    rows = scored(predictions, batch, target, row_weights)
    weight = rows.weights
    if rows.multi_label and weight is not None:
        weight = weight.max(-1)  # of the row; unknown labels (-1) are left out label by label
    columns = (rows.positive(), rows.labels, *(() if row_weights is None else (weight,)))
    return Rows.of(partial(_average, binary, average), *columns, mask=weight)


def _average(
    binary: Binary,
    average: Average,
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
) -> float:
    """The metric of two classes, or its mean over all classes, each against the rest."""
    if scores.ndim == 1:
        return binary(scores, labels, weights)
    classes = np.arange(scores.shape[1])
    positive = labels if labels.ndim == 2 else (labels[:, None] == classes).astype(int)

    def of_class(k: int) -> float:
        known = positive[:, k] != -1
        weight = None if weights is None else weights[known]
        return binary(scores[known, k], positive[known, k], weight) if known.any() else np.nan

    each = np.asarray([of_class(k) for k in range(len(classes))])
    if average == "macro":
        return float(each.mean())
    positive = positive.clip(0)
    support = positive.sum(0) if weights is None else weights.astype(np.float64) @ positive
    return float((support * np.where(support > 0, each, 0)).sum() / max(support.sum(), 1e-300))


def binary_curve(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores (T,), falling, and the true and false positives at each as threshold.

    A row is predicted as 1 if its score is at least the threshold.
    """
    if not np.isin(labels, (0, 1)).all():
        raise Error(f"The labels must be 0 and 1, but they are {np.unique(labels)[:10].tolist()}.")
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], labels[order] == 1
    weight = np.ones(len(scores)) if weights is None else weights[order].astype(np.float64)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # the last row of each tie
    true, false = np.cumsum(weight * positive), np.cumsum(weight * ~positive)
    return scores[last], true[last], false[last]


def binary_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> float:
    """ROC AUC of scores (N,) for labels of 0 and 1; NaN where all are alike."""
    _, true, false = binary_curve(scores, labels, weights)
    if not (true[-1] and false[-1]) or np.isnan(scores).any():
        return float("nan")
    heights = (true + np.append(0, true[:-1])) / 2
    return float((heights * np.diff(false, prepend=0)).sum() / (true[-1] * false[-1]))


def _binary_average_precision(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> float:
    _, true, false = binary_curve(scores, labels, weights)
    if np.isnan(scores).any():
        return float("nan")
    if not true[-1]:
        return 0.0
    return float((true / (true + false) * np.diff(true, prepend=0)).sum() / true[-1])
