"""A map of what a run has found: the codes of its rows, or of a graph's nodes, in two dimensions."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.parallel import processes
from jdl.figures.features import reader
from jdl.types import Run, Variables

MOST, LEAST = 2_000, 8  # rows of a map


def draw_embedding(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/embedding.png for a run that predicts codes, or reads graphs, with labels as colours.

    Of the evaluation data; codes of more than two numbers by t-SNE (van der Maaten and Hinton, 2008). Of any other run
    it draws nothing.
    """
    found = _points(run, variables)
    if found is None or len(found[0]) < LEAST:
        return []
    path = folder / "figures" / "embedding.png"
    if processes.first():
        _draw(*found, run.labels, path)
    return [path]


def _points(run: Run, variables: Variables) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes (N, D) of evaluation rows that have a label, and the labels (N,)."""
    data, predict = run.test or run.valid, run.learner.objective.predict
    if not isinstance(data, DatasetLoader) or predict is None:
        return None
    spec = data.spec
    if "y" not in spec or spec["y"].dtype != np.int32:
        return None
    graphs = "edges" in spec
    if not graphs and "code" not in jax.eval_shape(predict, variables, spec):
        return None
    look = jax.jit(
        reader(run) if graphs else lambda variables, batch: predict(variables, batch)["code"]
    )
    codes, labels = [], []
    for n in range(len(data)):
        batch = data[n]
        y = np.where(
            np.asarray(batch["mask"]).reshape(-1, *(1,) * (batch["y"].ndim - 1)), batch["y"], -1
        ).ravel()
        codes.append(np.asarray(look(variables, batch)).reshape(len(y), -1)[y >= 0])
        labels.append(y[y >= 0])
        if sum(map(len, labels)) >= MOST:
            break
    return np.concatenate(codes)[:MOST], np.concatenate(labels)[:MOST]


def _draw(codes: np.ndarray, labels: np.ndarray, names: tuple[str, ...], path: Path) -> None:
    from matplotlib.figure import Figure

    places = codes if codes.shape[1] == 2 else _flat(codes)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for label in np.unique(labels).tolist():
        across, up = places[labels == label].T
        name = names[label] if label < len(names) else str(label)
        axes.scatter(across, up, s=8, color=f"C{label}" if label < 10 else None, label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.legend(loc="outside right upper", markerscale=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _flat(codes: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE  # two seconds of import that only the end of a run needs

    return TSNE(init="pca", perplexity=min(30, (len(codes) - 1) / 3), random_state=0).fit_transform(
        codes
    )
