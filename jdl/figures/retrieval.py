"""A sheet of queries with what they find: texts or images, by two towers (retrieval)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.figures.rows import is_image
from jdl.metrics.retrieval import nearest
from jdl.objectives.predict import predict_all
from jdl.parallel import processes
from jdl.run import Run
from jdl.sampling import decode_until_end
from jdl.types import Batch, Predicts, Tokenizer, Variables

CODES = {"code", "y_code"}  # of the predictions
QUERIES, TOP = 6, 3
WIDE, HIGH = 26, 6  # letters and lines of a text
RIGHT, WRONG = "tab:green", "tab:red"


def is_retriever(objective: Any, variables: Variables, spec: Batch) -> bool:
    """Whether the predictions of an objective are the embeddings of both halves of pairs."""
    if not isinstance(objective, Predicts) or "y" not in spec:
        return False
    return jax.eval_shape(objective.predict, variables, spec).keys() >= CODES


def is_text(column: Any, tokenizer: Tokenizer | None) -> bool:
    """Whether a column (B, ...) is tokens (B, T) that can be read."""
    return tokenizer is not None and column.ndim == 2 and jnp.issubdtype(column.dtype, jnp.integer)


def draw_retrieval(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/retrieval.png: the first x of the evaluation data, and the y that they find.

    Those with the highest similarity among all rows, which is written above them: in green of the
    row's own y, in red of others. For a run of anything but `contrastive`, and for data that are
    neither images nor texts, it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader):
        return []
    halves = [data.spec[name] for name in ("x", "y") if name in data.spec]
    shown = [is_image(half) or is_text(half, run.tokenizer) for half in halves]
    if shown != [True, True] or not is_retriever(objective, variables, data.spec):
        return []
    codes = predict_all(objective, variables, data)
    found, similarity = nearest(codes["code"][:QUERIES], codes["y_code"], TOP)
    path = folder / "figures" / "retrieval.png"
    if processes.is_first():
        rows = data.dataset.take(np.arange(len(found)))
        documents = data.dataset.take(found.ravel())["y"]
        documents = documents.reshape(*found.shape, *documents.shape[1:])
        _draw(rows["x"], documents, found, similarity, run.tokenizer, path)
    return [path]


def _draw(
    queries: np.ndarray,
    documents: np.ndarray,
    found: np.ndarray,
    similarity: np.ndarray,
    tokenizer: Tokenizer | None,
    path: Path,
) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    count, top = found.shape
    figure = Figure(figsize=(1.9 * (1 + top), 1.25 * count), layout="constrained")
    places = figure.subplots(count, 1 + top, squeeze=False)
    for n in range(count):
        _show(places[n, 0], queries[n], tokenizer)
        for k in range(top):
            _show(places[n, 1 + k], documents[n, k], tokenizer)
            color = RIGHT if found[n, k] == n else WRONG
            title = f"{similarity[n, k]:.2f}"
            places[n, 1 + k].set_title(title, loc="left", fontsize=8, color=color)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _show(axes: Any, value: np.ndarray, tokenizer: Tokenizer | None) -> None:
    """An image, or the text of tokens."""
    axes.set_axis_off()
    if value.ndim == 1 and tokenizer is not None:
        lines = textwrap.wrap(decode_until_end(tokenizer, value), WIDE, max_lines=HIGH)
        text = "\n".join(lines).replace("$", r"\$")  # else formulas
        axes.text(0, 1, text, va="top", fontsize=8, transform=axes.transAxes)
    else:
        axes.imshow(value[..., 0] if value.shape[-1] == 1 else value, cmap="gray")
