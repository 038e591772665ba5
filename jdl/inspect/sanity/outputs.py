"""Sanity check of the model's outputs: logits and no probabilities, in the scale of the targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.subject import Subject
from jdl.objectives.classification import BinaryClassification, Classification
from jdl.objectives.regression import Regression, poisson_loss

SUMS = 1e-3  # by how much probabilities may miss the sum 1
FAR, VERY_FAR = 10, 100  # times the outputs, of targets


def check_outputs(subject: Subject) -> Finding:
    """Whether a classifier gives logits, and a regression numbers in the scale of its targets."""
    name, objective = "output scale", subject.objective
    if isinstance(objective, Classification | BinaryClassification):
        states = (subject.start, subject.early, subject.last)
        found = [subject.evaluate(subject.batch, state).outputs for state in states]
        return _logits(name, [next(iter(outputs.values())) for outputs in found])
    if type(objective) is Regression and objective.element_loss is not poisson_loss:
        out = next(iter(subject.evaluated_at_start.outputs.values()))
        return _target_scale(name, out, subject.rows["y"])
    return Finding(name, "n/a", "neither a classification nor a regression")


def has_far_targets(subject: Subject) -> bool:
    """Whether a regression's targets are far from its outputs."""
    is_regression = isinstance(subject.objective, Regression)
    return is_regression and check_outputs(subject).verdict in ("wrong", "note")


def _logits(name: str, outputs: Sequence[np.ndarray]) -> Finding:
    """Outputs (B, ..., K) of three states: probabilities in all of them, or logits."""
    if not all(((out >= 0) & (out <= 1)).all() for out in outputs):
        return Finding(name, "ok", "the outputs are logits, not probabilities")
    if outputs[0].shape[-1] == 1:
        text = "all outputs lie between 0 and 1: is a sigmoid the last layer?"
        return Finding(name, "wrong", text, "Leave it out: the objective has it, and takes logits")
    if all(np.allclose(out.sum(-1, dtype=np.float64), 1, atol=SUMS) for out in outputs):
        text = "the outputs of each row sum to 1: is a softmax the last layer?"
        return Finding(name, "wrong", text, "Leave it out: the objective has it, and takes logits")
    text = "all outputs lie between 0 and 1: is a sigmoid the last layer?"
    return Finding(name, "note", text, "The objective takes logits, which may be any numbers")


def _target_scale(name: str, out: np.ndarray, y: np.ndarray) -> Finding:
    """Initial outputs beside the targets: far from them, most of the training is on the way."""
    size, of_y = (float(np.sqrt(np.square(a, dtype=np.float64).mean())) for a in (out, y))
    text = (
        f"the targets y have the mean {y.mean():.4g} and the standard deviation {y.std():.4g}; "
        f"the outputs begin with a root mean square of {size:.2g}"
    )
    times = of_y / max(1.0, size)
    if times < FAR:
        return Finding(name, "ok", text)
    advice = (
        "Standardize the targets: (y - mean) / std of the training rows, or standardize_target="
        "True of jdl.data.csv, parquet and frame"
    )
    return Finding(name, "wrong" if times >= VERY_FAR else "note", text, advice)
