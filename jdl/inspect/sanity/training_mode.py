"""Sanity check of the training mode: dropout is drawn, and BatchNorm's statistics are updated."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jdl.inspect.sanity.finding import Finding, Verdict
from jdl.inspect.sanity.subject import Subject
from jdl.inspect.sanity.training import NO_DATA
from jdl.layers.frozen_batch_norm import IN_EVALUATION, IN_TRAINING
from jdl.objectives.model_errors import DropoutWatch
from jdl.objectives.model_keywords import is_told
from jdl.objectives.override import innermost
from jdl.paths import by_path
from jdl.types import BATCH_STATS, Array, Batch, Error, Variables

ADVICE = (
    f"A training step gives the model {', '.join(IN_TRAINING)} as true and "
    f"{', '.join(IN_EVALUATION)} as false, if it has arguments of these names: rename yours"
)
HAND_ON = "Hand the model's argument that says whether it trains on to these layers"
OF_PART = f"This is as it should be in a frozen part. {HAND_ON} otherwise"


def check_training_mode(subject: Subject) -> Finding:
    """Whether a training step is one: dropout is on, and BatchNorm's statistics are updated.

    Of the objective within its wrappers: layers that `freeze` holds are as they should be. A model
    that is told whether it trains may hold layers of a frozen part itself, which is worth a note.
    """
    name = "training mode"
    if not subject.has_rows:
        return Finding(name, "n/a", NO_DATA)
    dropouts = DropoutWatch()
    inner, variables = innermost(
        subject.learner.objective, subject.learner.eval_variables(subject.start)
    )

    def train(variables: Variables, batch: Batch) -> Any:
        with nn.intercept_methods(dropouts):
            return inner.loss(variables, batch, jax.random.key(0), True).model_state

    after = jax.jit(train)(variables, subject.batch)
    off: tuple[Verdict, str] = ("wrong", HAND_ON if _told(inner) else ADVICE)
    if _told(inner) and _may_hold(subject, variables):
        off = "note", OF_PART
    still = _still(variables.get(BATCH_STATS, {}), after.get(BATCH_STATS, {}))
    if still:
        text = f"a training step does not change the running statistics of {', '.join(still[:3])}"
        return Finding(name, off[0], text, off[1])
    if dropouts.called and not dropouts.drops:
        return Finding(name, off[0], "the model has Dropout, and a step never draws it", off[1])
    if not dropouts.called and BATCH_STATS not in variables:
        return Finding(name, "n/a", "neither Dropout nor BatchNorm of Flax Linen is seen")
    return Finding(name, "ok", "dropout and running statistics are those of training")


def _told(objective: Any) -> bool:
    """Whether the objective's model has an argument by which jdl says whether it trains."""
    for method in ("__call__", "encode", "decode") if hasattr(objective, "model") else ():
        with suppress(AttributeError, Error):  # it has no such method
            if is_told(objective.model, method):
                return True
    return False


def _may_hold(subject: Subject, variables: Variables) -> bool:
    """Whether the model has a frozen part: a parameter of it gets no gradient, or none is known."""
    if not subject.learner.has_grads:
        return True
    moved = {path for path, grad in subject.gradients.items() if np.any(np.asarray(grad))}
    return not moved.issuperset(by_path(variables["params"]))


def _still(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The layers whose statistics a step leaves as they begin, at 0 and 1; not pretrained ones."""
    old, new = (flatten_dict(tree, sep="/") for tree in (before, after))
    layers: dict[str, list[bool]] = {}
    for path, statistic in old.items():
        same = np.array_equal(statistic, new.get(path, statistic))
        layers.setdefault(path.rpartition("/")[0], []).append(same and _begins(statistic))
    return [layer or "the model" for layer, still in layers.items() if all(still)]


def _begins(statistic: Array) -> bool:
    """Whether all numbers are 0, or all are 1."""
    return bool((statistic == 0).all() or (statistic == 1).all())
