"""Anomaly detection: a score of each row, by an objective that learns what normal rows are like."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import jax

from jdl.metrics import average_precision, of_score, roc_auc
from jdl.objectives.override import override
from jdl.objectives.with_metrics import with_metrics
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Objective, Predicts, Variables

SCORE = "anomaly_score"  # the column of the predictions
SIGNS = {"reconstruction_error": 1, "distance": 1, "log_prob": -1}  # -1: low for an anomaly

Score = Callable[[Batch], Array]  # predictions -> scores (B,)


def detect_anomalies(objective: Objective, score: Score | None = None) -> Objective:
    """Anomaly detection (novelty detection; Ruff et al., 2021): a score of each row, AUROC, AUPRC.

    The objective learns what normal rows are like: `autoencode(model)`, `deep_svdd(model)` or
    `normalizing_flow(model)`. Train it on normal rows alone; training stays as it is. Predictions:
    its own, and anomaly_score (B,), high for rows unlike those of the training: the
    reconstruction_error, the distance, or the log_prob negated. Of an objective with other
    predictions, `score(predictions)` gives it. In evaluation, where the data have y, 1 for an
    anomaly and 0 for a normal row, more metrics: auroc and auprc (average precision) of the score.
    They need rows of both kinds. Also named out-of-distribution detection (OOD detection).
    """
    if not isinstance(objective, Predicts):
        raise Error(
            f"{type(objective).__name__} predicts nothing, and an anomaly score is made of "
            "predictions: give it a method predict(variables, batch)."
        )

    def predict(variables: Variables, batch: Batch) -> Batch:
        predictions = objective.predict(variables, batch)
        return {**predictions, SCORE: score(predictions) if score else _known_score(predictions)}

    scored = override(objective, predict=predict)
    of_column = itemgetter(SCORE)
    ranked = with_metrics(
        scored, auroc=of_score(roc_auc, of_column), auprc=of_score(average_precision, of_column)
    )

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        return (ranked if "y" in batch else scored).loss(variables, batch, key, train)

    def check(spec: Batch, bounds: Bounds) -> None:
        objective.check(spec, bounds)
        least, greatest = bounds.get("y", (0, 1))
        if least < 0 or greatest > 1:
            raise Error(
                f"detect_anomalies needs y of 1 for an anomaly and 0 for a normal row, and y is "
                f"from {least} to {greatest}: compare it with the anomalous class, as y == 3."
            )
        jax.eval_shape(
            lambda key, batch: predict(objective.init(key, batch), batch), jax.random.key(0), spec
        )

    return override(scored, loss=loss, check=check)


def _known_score(predictions: Batch) -> Array:
    """The score by the first known column of the predictions."""
    for name, sign in SIGNS.items():
        if name in predictions:
            return sign * predictions[name]
    raise Error(
        f"detect_anomalies finds none of {', '.join(SIGNS)} in the predictions, which have "
        f"{', '.join(predictions)}: say how to score them, by score=."
    )
