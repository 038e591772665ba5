"""Verification and retrieval metrics of embeddings: do two rows belong to the same class?

A pair of rows is accepted as the same if the cosine similarity of their embeddings, the column
`code` (B, D) of the predictions, reaches a threshold. All pairs of the evaluation count, once each:
N (N - 1) / 2 of N rows, which takes about 60 bytes a pair on the host. NaN where all pairs are of
one kind, and where an embedding is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from jdl.metrics.columns import Columns
from jdl.metrics.ranking import binary_auc, binary_curve
from jdl.metrics.retrieval import unit
from jdl.metrics.rows import Rows
from jdl.types import Error


def verification_auc(predictions: Columns, batch: Columns) -> Rows:
    """ROC AUC of verification: how often a pair of one class is more similar than one of two."""
    return _embedded(_auc, predictions, batch)


def equal_error_rate(predictions: Columns, batch: Columns) -> Rows:
    """Equal error rate (EER): the error where false accepts and false rejects are equally likely.

    The mean of both rates at the threshold where they are closest.
    """
    return _embedded(_equal_error_rate, predictions, batch)


def true_accept_rate(predictions: Columns, batch: Columns, false_accepts: float = 0.01) -> Rows:
    """True accept rate (TAR) at a false accept rate (FAR), by default of 1%.

    The share of pairs of one class that are accepted, at the lowest threshold that accepts at most
    this share of the pairs of two classes.
    """
    if not 0 <= false_accepts <= 1:
        raise Error(f"false_accepts, a rate, must be from 0 to 1, not {false_accepts}.")
    return _embedded(partial(_true_accept_rate, false_accepts), predictions, batch)


def recall_at_1(predictions: Columns, batch: Columns) -> Rows:
    """Recall at 1 of retrieval: for how many rows the most similar other row is of their class.

    Rows that are alone in their class do not count.
    """
    return _embedded(_recall_at_1, predictions, batch)


def _embedded(function: Callable[..., float], predictions: Columns, batch: Columns) -> Rows:
    if "code" not in predictions:
        raise Error(
            "Verification compares embeddings, the column code of the predictions, and the "
            f"objective predicts {', '.join(predictions)}: see jdl.objectives.triplet and arcface."
        )
    columns = predictions["code"], batch["y"]
    return Rows.of(partial(_finite, function), *columns, mask=batch.get("mask"))


def _finite(function: Callable[..., float], codes: np.ndarray, labels: np.ndarray) -> float:
    return function(codes, labels) if np.isfinite(codes).all() else float("nan")


def _similarities(codes: np.ndarray) -> np.ndarray:
    """Cosine similarities (N, N)."""
    codes = unit(codes)
    return codes @ codes.T


def _curve(codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The rates of true and of false accepts at each threshold; None without both kinds."""
    scores, same = _pairs(codes, labels)
    if not same.any() or same.all():
        return None
    _, true, false = binary_curve(scores, same, None)
    return true / true[-1], false / false[-1]


def _pairs(codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The similarity of each pair of rows, and 1 where both are of one class."""
    once = np.triu(np.ones((len(codes), len(codes)), bool), 1)
    return _similarities(codes)[once], (labels[:, None] == labels)[once]


def _auc(codes: np.ndarray, labels: np.ndarray) -> float:
    scores, same = _pairs(codes, labels)
    return binary_auc(scores, same, None) if len(same) else float("nan")


def _equal_error_rate(codes: np.ndarray, labels: np.ndarray) -> float:
    rates = _curve(codes, labels)
    if rates is None:
        return float("nan")
    rejected, accepted = 1 - rates[0], rates[1]
    closest = np.argmin(np.abs(accepted - rejected))
    return float((accepted[closest] + rejected[closest]) / 2)


def _true_accept_rate(limit: float, codes: np.ndarray, labels: np.ndarray) -> float:
    rates = _curve(codes, labels)
    if rates is None:
        return float("nan")
    allowed = rates[0][rates[1] <= limit]
    return float(allowed.max(initial=0.0))


def _recall_at_1(codes: np.ndarray, labels: np.ndarray) -> float:
    similarity = _similarities(codes)
    np.fill_diagonal(similarity, -np.inf)
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    counted = counts[places] > 1
    if not counted.any():
        return float("nan")
    nearest = labels[similarity.argmax(-1)]
    return float((nearest == labels)[counted].mean())
