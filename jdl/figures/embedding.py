"""A plot of embeddings in two dimensions (t-SNE): of rows, or of a graph's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.look import name_of
from jdl.figures.features import features
from jdl.objectives.predict import map_rows
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Batch, Error, Predicts, Variables

MAX_POINTS, MIN_POINTS = 2_000, 8


def draw_embedding(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/embedding.png: embeddings of labelled evaluation rows, coloured by label.

    Embeddings are the column `code` of the predictions, or for graphs the features of the nodes;
    those of more than two dimensions are projected by t-SNE (van der Maaten and Hinton, 2008). For
    any other run, or fewer than 8 rows, it draws nothing. Only the first process writes.
    """
    points = _labelled_codes(run, variables)
    if points is None or len(points[0]) < MIN_POINTS:
        return []
    path = folder / "figures" / "embedding.png"
    if processes.is_first():
        _draw(*points, run.labels, path)
    return [path]


def _labelled_codes(run: Run, variables: Variables) -> tuple[np.ndarray, np.ndarray] | None:
    """Embeddings (N, D) of evaluation rows or nodes with a label, and the labels (N,)."""
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return None
    spec = data.spec
    if "y" not in spec or spec["y"].dtype != np.int32:
        return None
    if "edges" in spec and _has_features(run, variables, spec):
        predict, name = partial(_node_features, run), "features"
    elif spec["y"].ndim == 1 and "code" in jax.eval_shape(objective.predict, variables, spec):
        predict, name = objective.predict, "code"
    else:
        return None
    columns = map_rows(predict, variables, data, columns=["y"], limit=MAX_POINTS)
    labels = columns["y"].ravel()
    codes = columns[name].reshape(len(labels), -1)
    return codes[labels >= 0][:MAX_POINTS], labels[labels >= 0][:MAX_POINTS]


def _has_features(run: Run, variables: Variables, spec: Batch) -> bool:
    """Whether the predictions use a dense layer of Linen: other models show no features."""
    try:
        jax.eval_shape(partial(features, run), variables, spec)
    except Error:
        return False
    return True


def _node_features(run: Run, variables: Variables, batch: Batch) -> Batch:
    """The features (B, N, D) of the nodes of graphs."""
    x = features(run, variables, batch)["features"]
    return {"features": x.reshape(*batch["y"].shape, -1)}


def _draw(codes: np.ndarray, labels: np.ndarray, names: tuple[str, ...], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    points = codes if codes.shape[1] == 2 else tsne(codes)
    figure = Figure(figsize=(7, 6), layout="constrained")
    scatter(figure.subplots(), points, labels, names)
    figure.legend(loc="outside right upper", markerscale=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def scatter(axes: Any, points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Shows points (N, 2) on axes of matplotlib, coloured by their labels (N,)."""
    for label in np.unique(labels).tolist():
        x, y = points[labels == label].T
        color = f"C{label}" if label < 10 else None
        axes.scatter(x, y, s=8, color=color, label=name_of(label, names))
    axes.set_xticks([])
    axes.set_yticks([])


def tsne(codes: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) in two dimensions, by t-SNE (van der Maaten and Hinton, 2008).

    On one thread: scikit-learn's threads spin while they wait. Four processes at once on two cores
    took 60 s each with two threads and 19 s with one. Alone, one takes 7 s and two 4.5 s.
    """
    from sklearn.manifold import TSNE  # slow to import (2 s)
    from threadpoolctl import threadpool_limits

    tsne = TSNE(init="pca", perplexity=min(30, (len(codes) - 1) / 3), random_state=0)
    with threadpool_limits(1, user_api="openmp"):
        return tsne.fit_transform(codes)
