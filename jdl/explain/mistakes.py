"""What a classifier gets wrong: confusions, the highest losses, and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jdl.explain.canvas import grid, save, title_row
from jdl.explain.subject import Subject
from jdl.figures.reliability import draw_reliability
from jdl.figures.rows import show_image
from jdl.inspect.by_row import metrics_by_row
from jdl.metrics import Calibration, Confusion
from jdl.types import Error

MOST_CLASSES = 20  # of a matrix whose cells are pictures
HIGHEST, COLUMNS = 24, 8  # losses that are shown


class Confusions(NamedTuple):
    """A confusion matrix with examples: (K, K), true classes by predicted ones."""

    counts: np.ndarray
    examples: np.ndarray  # the row that is predicted with the highest probability; -1 for none


def confusions(
    y: np.ndarray, label: np.ndarray, confidence: np.ndarray, classes: int
) -> Confusions:
    """The confusion matrix, and in each cell the row (of N) that the model is surest of."""
    counts = np.asarray(Confusion.of(jnp.asarray(label), jnp.asarray(y), classes).counts)
    examples = np.full((classes, classes), -1)
    order = np.argsort(confidence, kind="stable")  # the surest row comes last, and stays
    examples[y[order], label[order]] = order
    return Confusions(counts, examples)


def draw_confusions(subject: Subject, path: Path) -> str:
    """Draws a confusion matrix whose cells are images."""
    y, label, confidence = subject.classified()
    classes = subject.predictions["probability"].shape[-1]
    if classes > MOST_CLASSES:
        raise Error(f"There are {classes} classes, and a matrix of pictures has {MOST_CLASSES}.")
    found = confusions(y, label, confidence, classes)
    shown = np.argwhere(found.examples >= 0)
    rows = found.examples[shown[:, 0], shown[:, 1]]
    images = subject.images(rows.tolist())
    figure, places = grid(classes, classes, 0.72, 0.78, 1.2)
    for axes in places.ravel():
        axes.spines[:].set_visible(False)
    for (true, predicted), image in zip(shown, images, strict=True):
        axes, right = places[true, predicted], true == predicted
        show_image(axes, image)
        axes.set_title(
            f"{found.counts[true, predicted]:,}",
            fontsize=8,
            pad=2,
            color="black" if right else "tab:red",
        )
    for k in range(classes):
        title_row(places[k, 0], subject.name(k))
        places[-1, k].set_xlabel(subject.name(k), fontsize=9, rotation=45 * (classes > 4))
    figure.supxlabel("predicted", fontsize=10)
    figure.supylabel("true", fontsize=10)
    save(figure, path)
    wrong = found.counts - np.diag(found.counts.diagonal())
    a, b = np.unravel_index(wrong.argmax(), wrong.shape)
    most = (
        f" The most frequent error: {subject.name(a)} taken for {subject.name(b)}, "
        f"{wrong[a, b]:,} of {found.counts[a].sum():,} rows."
        if wrong.any()
        else ""
    )
    return (
        f"{found.counts.trace():,} of {found.counts.sum():,} rows are right. The number is how "
        "many rows are in the cell, and the picture the row there that the model is surest of: off "
        f"the diagonal, its most confident errors.{most}"
    )


def top_losses(subject: Subject, count: int = HIGHEST) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the highest losses: their numbers, and their losses, from the highest on.

    Losses that are NaN come first. Raises `Error` where the loss is no mean over rows.
    """
    losses = metrics_by_row(subject.trained, subject.split).get("loss")
    if losses is None:
        raise Error("The loss is no plain mean over the rows.")
    order = np.where(np.isnan(losses), np.inf, losses)
    rows = np.lexsort((-order, ~np.isnan(losses)))[:count]
    return rows, losses[rows]


def draw_top_losses(subject: Subject, path: Path) -> str:
    """Draws the images with the highest losses: what is predicted, what it is, and how sure."""
    rows, losses = top_losses(subject)
    said = f"The highest losses, by row: {', '.join(_loss_text(rows[:8], losses))}."
    if np.isnan(losses).any():
        said += " A loss that is NaN comes first: look at the row's numbers."
    try:
        images = subject.images(rows.tolist())
    except Error as error:
        raise Error(f"{error} {said}") from error
    try:
        y, label, confidence = subject.classified()
    except Error:
        titles = [f"row {row}, loss {loss:.3g}" for row, loss in zip(rows, losses, strict=True)]
    else:
        titles = [
            f"row {row}: {subject.name(y[row])}\n"
            f"as {subject.name(label[row])} ({confidence[row]:.2f})\nloss {loss:.3g}"
            for row, loss in zip(rows, losses, strict=True)
        ]
    figure, grid_places = grid(-(-len(rows) // COLUMNS), COLUMNS, 1.35, 1.7)
    places = grid_places.ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, image, title in zip(places, images, titles, strict=False):
        show_image(axes, image)
        axes.set_title(title, fontsize=7)
    save(figure, path)
    return f"Look for wrong labels and for rows that are unlike all others. {said}"


def draw_calibration(subject: Subject, path: Path) -> str:
    """Draws the reliability diagram of the evaluation data."""
    y, label, confidence = subject.classified()
    calibration = Calibration.of(jnp.asarray(confidence), jnp.asarray(label == y))
    draw_reliability(calibration, path)
    mean, accuracy = float(confidence.mean()), float((label == y).mean())
    return (
        f"The expected calibration error (ECE) is {float(calibration.value()):.4f}: the mean gap "
        f"between how sure the model is and how often it is right. Over all {len(y):,} rows it is "
        f"sure by {mean:.4f} and right in {accuracy:.4f}."
    )


def _loss_text(rows: np.ndarray, losses: np.ndarray) -> list[str]:
    return [f"{row} ({loss:.3g})" for row, loss in zip(rows, losses, strict=False)]
