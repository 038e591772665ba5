"""Sanity checks of the labels: their range, whether the inputs tell them, and shuffled labels."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.rows import BOOKKEEPING
from jdl.inspect.sanity.subject import Subject, rows_of, rows_of_split
from jdl.inspect.sanity.training import chance
from jdl.objectives.classification import BinaryClassification, Classification
from jdl.types import Batch, State

INDICES = ("edges",)  # numbers of nodes: what follows from the structure is no leak
LEAST_ROWS, LEAST_OF_A_CLASS = 100, 5  # below, a column tells the labels by chance
CHANCE = 1e-9  # that a feature tells the labels of its repeated values without knowing them
MOST_FEATURES = 4096
HELD_OUT_ROWS = 32  # fewer say nothing of what is learned
LEARNED = 0.8  # of the entropy of the labels: below it, something is known of them


def check_labels(subject: Subject) -> Finding:
    """Whether the labels of a classification are those of the model's classes: off by one?"""
    name = "label range"
    if not isinstance(subject.objective, Classification | BinaryClassification):
        return Finding(name, "n/a", "no classification")
    y = subject.rows["y"]
    logits = next(iter(subject.evaluated.outputs.values()))
    if y.dtype.kind not in "iu" or y.ndim == logits.ndim:
        return Finding(name, "n/a", "the labels are probabilities")
    seen = np.unique(y[y >= 0] if y.ndim > 1 else y)
    classes = 2 if isinstance(subject.objective, BinaryClassification) else logits.shape[-1]
    if not len(seen):
        text = f"all labels of {len(y):,} rows are negative, and so unknown: nothing is learned"
        return Finding(name, "wrong", text, "Are the labels read as they should be?")
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
    y = _labels_of_rows(subject.rows.get("y")) if subject.has_rows else None
    if y is None:
        return Finding(name, "n/a", "there is no label for each row")
    if len(y) < LEAST_ROWS:
        return Finding(name, "n/a", f"only {len(y)} rows, where chance can tell labels")
    inputs = {
        column: values.reshape(len(y), -1)[:, :MOST_FEATURES]
        for column, values in subject.rows.items()
        if column not in (*BOOKKEEPING, *INDICES, "y") and values.dtype.kind in "iufb"
    }
    if sum(values.shape[1] for values in inputs.values()) == 1:
        return Finding(name, "n/a", "the inputs are a single number, and y may well follow from it")
    features = {
        f"{column}[{n}]" if values.shape[1] > 1 else column: values[:, n]
        for column, values in inputs.items()
        for n in range(values.shape[1])
    }
    tells = _is_linear if y.dtype.kind == "f" else _tells
    telling = [place for place, feature in features.items() if tells(feature, y)]
    copies = [place for place in telling if _is_copy(features[place], y)]
    telling = copies or telling
    if not telling:
        return Finding(name, "ok", f"no single number of the inputs tells y, in {len(y):,} rows")
    more = f" and {len(telling) - 5} more" if len(telling) > 5 else ""
    text = f"y can be read off {', '.join(telling[:5])}{more} alone"
    if y.dtype.kind == "f":
        advice = "The target in another unit? Of data that were made without noise it may be so"
        return Finding(name, "note", f"{text}: it is a + b x", advice)
    advice = "Is the label, or what follows from it, in the inputs?"
    if not copies:
        return Finding(name, "note", text, f"{advice} Of data that are easy it may be so")
    return Finding(name, "wrong", f"{text}: its values and the classes are one to one", advice)


def _labels_of_rows(y: np.ndarray | None) -> np.ndarray | None:
    """The label of each row (B,), of labels (B,) or (B, 1); None where there is none."""
    return None if y is None or y.size != len(y) else np.asarray(y).reshape(len(y))


def _tells(feature: np.ndarray, y: np.ndarray) -> bool:
    """Whether each value of a feature has one label, or one of two values is one class.

    Of many values that says something only where they repeat, or where in their order each class
    is one interval.
    """
    classes, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
    values, places = np.unique(feature, return_inverse=True)
    if len(classes) < 2 or counts.min() < LEAST_OF_A_CLASS or len(values) < 2:
        return False
    label_of = np.zeros(len(values), int)
    label_of[places] = labels
    if (label_of[places] == labels).all():
        intervals = 1 + np.count_nonzero(np.diff(label_of))
        repeats = len(labels) - len(values)
        by_chance = repeats * np.log(counts.max() / len(labels))
        return bool(intervals == len(classes) or by_chance < np.log(CHANCE))
    of_value = [labels[places == place] for place in range(len(values) if len(values) == 2 else 0)]
    return any((one == one[0]).all() and len(one) == counts[one[0]] for one in of_value)


def _is_copy(feature: np.ndarray, y: np.ndarray) -> bool:
    """Whether a feature that tells the labels has one value for each class: a copy of them."""
    return len(np.unique(feature)) == len(np.unique(y))


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
    classifies = isinstance(subject.objective, Classification | BinaryClassification)
    y = _labels_of_rows(subject.rows["y"]) if classifies else None
    if y is None or y.dtype.kind not in "iu" or not chance(subject):
        text = "no classification of rows with whole labels by the cross-entropy"
        return Finding(name, "n/a", text)
    held_out = _held_out(subject)
    if held_out is None:
        return Finding(name, "n/a", f"there are no held-out data, nor any after {steps} batches")
    real = np.asarray(held_out.get("mask", np.ones(len(held_out["y"])))) > 0
    shares = np.unique(np.asarray(held_out["y"])[real], return_counts=True)[1] / real.sum()
    if real.sum() < HELD_OUT_ROWS or len(shares) < 2:
        return Finding(name, "n/a", f"fewer than {HELD_OUT_ROWS} held-out rows, or one class alone")
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


def _held_out(subject: Subject) -> Batch | None:
    """A batch of rows from all over the validation or test data: these may be sorted by class.

    Without such data, rows that no step of the training here reads, if there are any.
    """
    run = subject.run
    data, first = (run.train, subject.steps) if run.valid is None else (run.valid, 0)
    if run.valid is None and run.test is not None:
        data, first = run.test, 0
    if first >= len(data):
        return None
    rows = rows_of_split(data, first)
    if rows_of(rows) < data.batch_size:
        return data[first]
    places = np.linspace(0, rows_of(rows) - 1, data.batch_size).astype(int)
    return {name: jnp.asarray(column[places]) for name, column in rows.items()}


def _shuffled(batch: Batch, step: int) -> Batch:
    """The batch with labels of other rows."""
    order = np.random.default_rng([0, step + 1]).permutation(len(batch["y"]))
    return {**batch, "y": batch["y"][order]}


def _train(subject: Subject, shuffle: bool) -> State:
    state = subject.start
    for i, batch in enumerate(subject.batches(subject.steps)):
        state, _ = subject.step(state, _shuffled(batch, i) if shuffle else batch)
    return state
