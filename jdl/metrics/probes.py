"""Probes of features: how well a simple classifier of few labels tells classes apart by them."""

from __future__ import annotations

import numpy as np

from jdl.errors import Error
from jdl.metrics.retrieval import nearest

FOLDS = 5  # of the cross-validation that chooses the strength of the regularization
STRENGTHS = np.logspace(-4, 0, 5)  # values of C in scikit-learn: 1 / strength


def linear_probe(
    codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray
) -> float:
    """Accuracy of a linear probe: logistic regression on frozen features (Alain and Bengio, 2017).

    It is trained on features `codes` (N, D) with their `labels` (N,), standardized, and tested on
    others. The strength of its L2 regularization is chosen by cross-validation of the training
    rows; it is 1 if a class has one row alone. NaN where a feature is not finite.
    """
    # Imported here: it takes a second, and only scores at the end need it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    _check(codes, labels, test_codes, test_labels)
    if not (np.isfinite(codes).all() and np.isfinite(test_codes).all()):
        return float("nan")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fewest = np.unique(labels, return_counts=True)[1].min()  # rows of a class
    if fewest > 1:
        folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
        probe = GridSearchCV(probe, {"logisticregression__C": STRENGTHS}, cv=folds)
    with threadpool_limits(1):  # for so few rows threads are slower, and the bits depend on them
        probe.fit(codes.astype(np.float64), labels)
    return float(probe.score(test_codes.astype(np.float64), test_labels))


def knn_probe(
    codes: np.ndarray,
    labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of a weighted k-NN probe (k nearest neighbors; Wu et al., 2018) of features.

    The `k` rows of `codes` (N, D) that are most similar to a test row by cosine vote for their
    `labels` (N,), each with the weight exp(cosine / `temperature`). NaN where a feature is not
    finite.
    """
    _check(codes, labels, test_codes, test_labels)
    if not 1 <= k <= len(codes):
        raise Error(f"k, a number of neighbors, must be from 1 to {len(codes)}, not {k}.")
    if not (np.isfinite(codes).all() and np.isfinite(test_codes).all()):
        return float("nan")
    found, cosines = nearest(test_codes, codes, k)
    weights = np.exp((cosines - cosines[:, :1]) / temperature)  # the nearest row weighs 1
    classes, places = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(found), len(classes)))
    np.add.at(votes, (np.arange(len(found))[:, None], places[found]), weights)
    return float((classes[votes.argmax(-1)] == test_labels).mean())


def _check(
    codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray
) -> None:
    """Raises `Error` unless each row has features and a label, of two classes or more."""
    for features, of_rows in ((codes, labels), (test_codes, test_labels)):
        if features.ndim != 2 or of_rows.shape != features.shape[:1] or not len(of_rows):
            raise Error(
                "A probe needs features (N, D) and one label for each row, of training rows and of "
                f"test rows; got features {features.shape} and labels {of_rows.shape}."
            )
    if len(np.unique(labels)) < 2:
        raise Error("A probe needs labelled rows of at least two classes.")
