"""Checks of what a user's objective returns, while it is traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jdl.objectives.override import unwrapped_objective
from jdl.types import Error, LossOutput, Mean, Objective, Variables

OF_ROWS = 'jdl.Mean.of(values, batch.get("mask")), of one value for each row'


def check_output(objective: Objective, output: Any) -> None:
    """Raises `Error` unless it is a `LossOutput` of a `Mean`, metrics and a model state."""
    name = _loss_of(objective)
    if not isinstance(output, LossOutput):
        raise Error(
            f"{name} must return jdl.LossOutput(loss, metrics, model_state), not "
            f"{described(output)}. The loss is {OF_ROWS}."
        )
    if not isinstance(output.loss, Mean):
        raise Error(
            f"The loss in the LossOutput of {name} must be a jdl.Mean, not "
            f"{described(output.loss)}: {OF_ROWS}, not their mean."
        )
    check_metrics({"loss": output.loss}, name)
    check_metrics(output.metrics, name)
    if not isinstance(output.model_state, Mapping):
        raise Error(
            f"The model_state in the LossOutput of {name} must be a dict of Flax's collections, "
            f"not {described(output.model_state)}: {{}} for a model that has parameters alone."
        )


def check_metrics(metrics: Any, where: str) -> None:
    """Raises `Error` unless they are metrics by name, each an `a + b` with a `value()`."""
    if not isinstance(metrics, Mapping):
        raise Error(f"The metrics of {where} must be a dict by name, not {described(metrics)}.")
    for name, metric in metrics.items():
        if not (callable(getattr(metric, "value", None)) and hasattr(metric, "__add__")):
            raise Error(
                f"The metric {name} of {where} is {described(metric)}, which could not be merged "
                f"over batches: give {OF_ROWS}, or jdl.metrics.Rows.of(function, columns) for a "
                "function of all rows together."
            )
        if isinstance(metric, Mean) and (np.shape(metric.total) or np.shape(metric.count)):
            raise Error(
                f"The Mean {name} of {where} has a total of shape {np.shape(metric.total)} and a "
                f"count of shape {np.shape(metric.count)}, and both must be single numbers: give "
                f"{OF_ROWS}."
            )


def check_kept(objective: Objective, before: Variables, after: Variables) -> None:
    """Raises `Error` where a training step would lose collections of the model state."""
    if lost := sorted(set(before) - set(after)):
        raise Error(
            f"{_loss_of(objective)} loses {', '.join(lost)}: the third field of "
            "LossOutput is the model state after the batch, all variables but the parameters. In "
            f"training return what model.apply(..., mutable={lost}) gives besides the output, and "
            "in evaluation, or where nothing of it changes, that of `variables`."
        )


def _loss_of(objective: Any) -> str:
    """The name of the loss of an objective, within its wrappers (`freeze`, `with_metrics`)."""
    return f"{type(unwrapped_objective(objective)).__name__}.loss"


def described(value: Any) -> str:
    """What was given, in words."""
    if isinstance(value, jax.Array | np.ndarray):
        return "a single number" if not value.ndim else f"an array of shape {value.shape}"
    return f"a {type(value).__name__}" if value is not None else "None"
