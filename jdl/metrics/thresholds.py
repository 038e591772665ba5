"""Decisions at a threshold: precision, recall and F1, and the threshold that is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jdl.metrics.columns import Columns, Scored, ratio, scored
from jdl.metrics.ranking import binary_curve
from jdl.metrics.rows import Rows, Sums
from jdl.types import Array, Error

Average = Literal["macro", "micro"]
Threshold = float | Sequence[float]  # a probability, or one for each of several labels


def precision_at(
    predictions: Columns,
    batch: Columns,
    threshold: Threshold = 0.5,
    average: Average = "macro",
    target: str = "y",
    row_weights: str | None = None,
) -> Sums:
    """Precision at a threshold: of the rows with at least this probability, the share of 1s.

    For two classes, or K labels of 0 and 1 a row: there the mean over the labels ("macro"), or of
    all labels together ("micro"), and `threshold` may be K numbers. 0 where no row is predicted as
    1.
    """
    rows = _decided(predictions, batch, target, row_weights)
    return _sums(_precision, rows, threshold, average)


def recall_at(
    predictions: Columns,
    batch: Columns,
    threshold: Threshold = 0.5,
    average: Average = "macro",
    target: str = "y",
    row_weights: str | None = None,
) -> Sums:
    """Recall at a threshold: of the rows labelled 1, the share with at least this probability.

    0 where no row is labelled 1. Several labels a row are averaged as in `precision_at`.
    """
    return _sums(_recall, _decided(predictions, batch, target, row_weights), threshold, average)


def f1_at(
    predictions: Columns,
    batch: Columns,
    threshold: Threshold = 0.5,
    average: Average = "macro",
    target: str = "y",
    row_weights: str | None = None,
) -> Sums:
    """F1 score at a threshold: the harmonic mean of `precision_at` and `recall_at`.

    0 where no row is labelled or predicted as 1. Several labels a row are averaged as there.
    """
    return _sums(_f1, _decided(predictions, batch, target, row_weights), threshold, average)


def best_threshold(
    predictions: Columns,
    batch: Columns,
    metric: Literal["f1", "youden"] | Callable[..., np.ndarray] = "f1",
    target: str = "y",
    row_weights: str | None = None,
) -> Rows:
    """The threshold of the probability of 1 with the best F1 score, for two classes.

    Rows with at least this probability are then predicted as 1. `metric` is "f1", or "youden":
    recall plus specificity - 1 (Youden's J, 1950); or a function of arrays, one number a
    threshold: `metric(true_positives, false_positives, false_negatives, true_negatives)`. Of equal
    thresholds it is the highest, and one where `metric` is NaN is never the best; NaN where a class
    has no row. Choose it on validation data, and apply it to test data: it is exact, and fits the
    noise of the rows that it is chosen on.
    """
    criterion = _criterion(metric)
    rows = _decided(predictions, batch, target, row_weights)
    if rows.multi_label:
        raise Error(
            "best_threshold is for two classes, and these rows have several labels each: "
            "jdl.metrics.best_thresholds gives a threshold for each label."
        )
    columns = (rows.positive(), rows.labels)
    if row_weights is not None:
        columns += (rows.weights,)
    return Rows.of(partial(_best_threshold, criterion), *columns, mask=rows.weights)


def best_thresholds(
    predictions: Columns,
    batch: Columns,
    metric: Literal["f1", "youden"] | Callable[..., np.ndarray] = "f1",
    target: str = "y",
    row_weights: str | None = None,
) -> tuple[float, ...]:
    """The best threshold of each of K labels a row: `best_threshold` of each label alone.

    Of the columns of a whole split, by `jdl.objectives.predict_all`; for `multi_label(threshold=)`
    and `f1_at(threshold=)`. Unknown labels (-1) do not count; NaN for a label that no known row
    has, or all have. With the F1 score of each label, their mean (macro F1) is best too.
    """
    find = partial(_best_threshold, _criterion(metric))
    rows = _decided(predictions, batch, target, row_weights)
    if not rows.multi_label:
        raise Error("best_thresholds is for several labels a row: take best_threshold here.")
    columns = [rows.probability, rows.labels, rows.weights]

    def best(label: int) -> float:
        scores, labels, weights = (jnp.asarray(column)[..., label] for column in columns)
        weight = (weights,) if row_weights is not None else ()
        return Rows.of(find, scores, labels, *weight, mask=weights).value()

    return tuple(best(label) for label in range(rows.probability.shape[-1]))


def _criterion(metric: Any) -> Callable[..., np.ndarray]:
    if not callable(metric) and metric not in CRITERIA:
        raise Error(f'metric must be "f1", "youden" or a function, not {metric!r}.')
    return metric if callable(metric) else CRITERIA[metric]


def _best_threshold(
    criterion: Callable[..., np.ndarray],
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
) -> float:
    thresholds, true, false = binary_curve(scores, labels, weights)
    if not (true[-1] and false[-1]):
        return float("nan")
    quality = criterion(true, false, true[-1] - true, false[-1] - false)
    quality = np.where(np.isnan(quality), -np.inf, quality)
    if np.isneginf(quality).all():
        return float("nan")
    equal = quality >= quality.max() - 1e-12  # to the best, but for rounding
    return float(thresholds[np.argmax(equal)])


def _f1_curve(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    return 2 * tp / (2 * tp + fp + fn)


def _youden(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    return tp / (tp + fn) + tn / (tn + fp) - 1


CRITERIA = {"f1": _f1_curve, "youden": _youden}


def _decided(predictions: Columns, batch: Columns, target: str, row_weights: str | None) -> Scored:
    rows = scored(predictions, batch, target, row_weights)
    if rows.probability.shape[-1] != 2 and not rows.multi_label:
        raise Error(
            "A threshold divides two classes, or each of several labels, but the model has "
            f"{rows.probability.shape[-1]} classes: see the metric confusion of the objective."
        )
    return rows


def _sums(
    function: Callable[..., Any], rows: Scored, threshold: Threshold, average: Average
) -> Sums:
    """The function of the true and false positives, and false negatives, (K,) with K labels."""
    if average not in ("macro", "micro"):
        raise Error(f'average must be "macro" or "micro", not {average!r}.')
    predicted = (rows.positive() >= _at(threshold, rows)).astype(jnp.float32)
    actual = rows.labels.astype(jnp.float32)
    weight = jnp.ones(len(actual)) if rows.weights is None else rows.weights.astype(jnp.float32)
    weight = weight.reshape(weight.shape + (1,) * (actual.ndim - weight.ndim))

    def total(share: Array) -> Array:
        counted = jnp.where(weight != 0, weight * share, 0)
        return counted.sum(0 if rows.multi_label else None)

    counts = {
        "tp": total(predicted * actual),
        "fp": total(predicted * (1 - actual)),
        "fn": total((1 - predicted) * actual),
    }
    if average == "micro":
        counts = {name: count.sum() for name, count in counts.items()}
    return Sums(function, counts)


def _at(threshold: Threshold, rows: Scored) -> Array:
    """The threshold as an array that compares with the probabilities: one number, or (..., K)."""
    at, labels = jnp.asarray(threshold, jnp.float32), rows.probability.shape[-1]
    if at.ndim == 0:
        return at
    if not rows.multi_label or at.shape != (labels,):
        raise Error(
            f"There are {at.size} thresholds, and probabilities of {labels} "
            f"{'labels' if rows.multi_label else 'classes'}: give one threshold, or one for each "
            "of several labels a row."
        )
    return at.reshape((1,) * (rows.labels.ndim - 1) + (-1,))


def _precision(tp: Any, fp: Any, fn: Any) -> Any:
    return ratio(tp, tp + fp).mean()


def _recall(tp: Any, fp: Any, fn: Any) -> Any:
    return ratio(tp, tp + fn).mean()


def _f1(tp: Any, fp: Any, fn: Any) -> Any:
    return ratio(2 * tp, 2 * tp + fp + fn).mean()
