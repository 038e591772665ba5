"""The rows of the evaluation data with the highest anomaly scores."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.figures.rows import COLUMNS, ROWS, draw_rows
from jdl.image_bytes import rescale
from jdl.objectives.anomalies import SCORE
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Predicts, Variables


def draw_anomalies(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/anomalies.png: the rows with the highest anomaly scores, from the highest on.

    Of the evaluation data of a run of `detect_anomalies`, images or series as they are before any
    transform, with their labels y; for any other run, or where the evaluation data are shuffled,
    it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    if data.seed is not None:  # scores come in the loader's order, rows are taken in the dataset's
        return []
    if "x" not in data.spec or SCORE not in jax.eval_shape(objective.predict, variables, data.spec):
        return []
    score = predict_all(objective, variables, data)[SCORE]
    if not processes.is_first():
        return []
    highest = np.argsort(-score, kind="stable")[: ROWS * COLUMNS]
    rows = {
        name: np.asarray(rescale(name, column))
        for name, column in data.dataset.take(highest).items()
    }
    path = draw_rows(rows, run.labels, folder / "figures" / "anomalies.png")
    return [path] if path else []
