"""Sanity checks of the labels: their range, whether the inputs tell them, and shuffled labels."""

from __future__ import annotations

import numpy as np

from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.rows import BOOKKEEPING
from jdl.inspect.sanity.subject import Subject
from jdl.objectives.classification import Classification
from jdl.types import Batch, State

LEAST_ROWS, LEAST_OF_A_CLASS = 100, 5  # below, a column tells the labels by chance
MOST_FEATURES = 4096
HELD_OUT_ROWS = 32  # fewer say nothing of what is learned
LEARNED = 0.8  # of the entropy of the labels: below it, something is known of them


def check_labels(subject: Subject) -> Finding:
    """Whether the labels of a classification are those of the model's classes: off by one?"""
    name = "labels"
    if not isinstance(subject.objective, Classification):
        return Finding(name, "n/a", "no classification")
    y = subject.rows["y"]
    logits = next(iter(subject.evaluate(subject.batch).outputs.values()))
    if y.dtype.kind not in "iu":
        return Finding(name, "n/a", "the labels are probabilities")
    seen, classes = np.unique(y[y >= 0] if y.ndim > 1 else y), logits.shape[-1]
    least, most = int(seen.min()), int(seen.max())
    text = f"labels from {least} to {most}, of the model's classes 0 to {classes - 1}"
    if most >= classes or least < 0:
        return Finding(name, "wrong", text, "Labels begin at 0: y - 1? Or give the model more")
    if least == 1 and len(seen) == classes - 1 and classes > 2:
        advice = "The label 0 never occurs, and all others do: are the labels off by one?"
        return Finding(name, "wrong", text, advice)
    missing = classes - len(seen)
    if missing and len(y) >= LEAST_OF_A_CLASS * classes:
        return Finding(name, "note", f"{text}; {missing} of them do not occur in {len(y):,} rows")
    return Finding(name, "ok", text)


def check_label_leakage(subject: Subject) -> Finding:
    """Target leakage (label leakage): whether one number of the inputs tells the label."""
    name = "label leakage"
    if not subject.has_rows or "y" not in subject.batch or subject.batch["y"].ndim != 1:
        return Finding(name, "n/a", "there is no label for each row")
    y = subject.rows["y"]
    if len(y) < LEAST_ROWS:
        return Finding(name, "n/a", f"only {len(y)} rows, where chance can tell labels")
    telling = [
        f"{column}[{n}]" if values.ndim > 1 else column
        for column, values in subject.rows.items()
        if column not in (*BOOKKEEPING, "y") and values.dtype.kind in "iufb"
        for n in _telling(values.reshape(len(y), -1)[:, :MOST_FEATURES], y)
    ]
    if not telling:
        return Finding(name, "ok", f"no single number of the inputs tells y, in {len(y):,} rows")
    more = f" and {len(telling) - 5} more" if len(telling) > 5 else ""
    text = f"y can be read off {', '.join(telling[:5])}{more} alone"
    return Finding(name, "wrong", text, "Is the label, or what follows from it, in the inputs?")


def _telling(features: np.ndarray, y: np.ndarray) -> list[int]:
    """The features of which each value has one label, or of which one value is one class."""
    if y.dtype.kind == "f":
        return [n for n in range(features.shape[1]) if _is_linear(features[:, n], y)]
    classes, labels = np.unique(y, return_inverse=True)
    counts = np.bincount(labels)
    if len(classes) < 2 or counts.min() < LEAST_OF_A_CLASS:
        return []
    found = []
    for n in range(features.shape[1]):
        values, places = np.unique(features[:, n], return_inverse=True)
        if not 1 < len(values) <= 2 * len(classes):
            continue
        table = np.zeros((len(values), len(classes)), int)
        np.add.at(table, (places.ravel(), labels), 1)
        each_has_one = ((table > 0).sum(1) == 1).all()
        of_one = table[(table > 0).sum(1) == 1]
        is_a_class = len(values) == 2 and any((row == counts).any() for row in of_one)
        if each_has_one or is_a_class:
            found.append(n)
    return found


def _is_linear(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether numbers y are a + b x."""
    if x.dtype.kind == "b" or not (np.isfinite(x).all() and np.std(x) > 0 and np.std(y) > 0):
        return False
    return bool(abs(np.corrcoef(x.astype(np.float64), y.astype(np.float64))[0, 1]) > 1 - 1e-6)


def check_shuffled_labels(subject: Subject) -> Finding:
    """Trained on shuffled labels (Zhang et al., 2017), held-out rows must not be predicted.

    The same training on the true labels is beside it.
    """
    name, steps = "shuffled labels", subject.steps
    if not isinstance(subject.objective, Classification) or subject.batch["y"].ndim != 1:
        return Finding(name, "n/a", "no classification of rows")
    held_out = _held_out(subject)
    real = np.asarray(held_out.get("mask", np.ones(len(held_out["y"])))) > 0
    if subject.batch["y"].dtype.kind not in "iu" or real.sum() < HELD_OUT_ROWS:
        return Finding(name, "n/a", f"fewer than {HELD_OUT_ROWS} held-out rows with whole labels")
    shares = np.unique(np.asarray(held_out["y"])[real], return_counts=True)[1] / real.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    true, shuffled = (
        subject.evaluate(
            _shuffled(held_out, -1) if shuffle else held_out, _train(subject, shuffle)
        ).loss
        for shuffle in (False, True)
    )
    text = (
        f"held-out loss after {steps} steps: {shuffled:.4g} on shuffled labels, {true:.4g} on the "
        f"true ones; the entropy of the labels is {entropy:.4g}"
    )
    if not np.isfinite([true, shuffled]).all():
        return Finding(name, "wrong", text, "The training is not finite: a smaller learning rate?")
    if shuffled < LEARNED * entropy:
        return Finding(name, "wrong", text, "The label reaches the model: look at its inputs")
    if true > min(entropy, shuffled) * (1 - 1e-2) and subject.run.config.steps > steps:
        advice = "Nothing general is learned yet: do rows of x and y belong together? Or slow"
        return Finding(name, "note", text, advice)
    return Finding(name, "ok", text)


def _held_out(subject: Subject) -> Batch:
    """A batch of the validation or test data, as large as those of training."""
    data = subject.run.valid or subject.run.test
    return data[0] if data is not None else subject.run.train[len(subject.run.train) - 1]


def _shuffled(batch: Batch, step: int) -> Batch:
    """The batch with labels of other rows."""
    order = np.random.default_rng([0, step + 1]).permutation(len(batch["y"]))
    return {**batch, "y": batch["y"][order]}


def _train(subject: Subject, shuffle: bool) -> State:
    state = subject.start
    for i, batch in enumerate(subject.batches(subject.steps)):
        state, _ = subject.step(state, _shuffled(batch, i) if shuffle else batch)
    return state
