"""Multi-task learning: several heads of one model, each with its target, loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jdl.objectives import model_call
from jdl.objectives.supervised import Supervised
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Variables,
    sums_of,
)


@dataclass(frozen=True)
class Head:
    """A head of `heads`: what makes its objective, its weight in the loss, and its target column.

    `objective` is a function like `classify`, or `partial(classify, smoothing=0.1)`. The target is
    by default the column with the head's name.
    """

    objective: Callable[[Any], Any]
    weight: float = 1.0
    target: str = ""


def heads(model: Any, /, **by_name: Head | Callable[[Any], Any]) -> Heads:
    """Multi-task learning (Caruana, 1997): several heads of one model, each with its own target.

    The model is called once and gives a dict with an output for each head:
    `heads(model, digit=classify, angle=Head(regress, weight=0.1))`, with the targets in columns of
    these names. A head can be any supervised objective: `classify`, `classify_binary`,
    `multi_label`, `regress`, `ordinal`, `quantiles`, or a subclass of `Supervised`.

    The loss of a row is the sum over the heads of weight times the head's loss: the mean over the
    row's known targets, or 0 if none is known. (Those of `multi_label`, and dense labels of
    `classify`, can be unknown: -1.) The loss of a batch is the mean over its rows, so it adds up
    exactly over parts of a batch; a head that is known in a tenth of the rows has a tenth of the
    influence, unless its weight is ten times greater. Weights of rows and classes multiply a
    head's loss, and are best 1 on average. Metrics are those of each head, and its loss alone, as
    "digit/loss", "digit/accuracy", ...; predictions are named "digit/label", ...
    """
    if not by_name:
        raise Error("heads needs at least one: heads(model, digit=jdl.objectives.classify).")
    made = {
        name: _make(model, name, head if isinstance(head, Head) else Head(head))
        for name, head in by_name.items()
    }
    return Heads(model, made)


def _make(model: Any, name: str, head: Head) -> tuple[Supervised, float, str]:
    objective = head.objective(model)
    if not isinstance(objective, Supervised):
        raise Error(
            f"The head {name} is a {type(objective).__name__}, but it must be a supervised "
            "objective, such as classify, multi_label, regress, ordinal or quantiles."
        )
    if not 0 <= head.weight < float("inf"):
        raise Error(f"The weight of the head {name} must be 0 or more, not {head.weight}.")
    return objective, head.weight, head.target or name


@dataclass(frozen=True, eq=False)
class Heads(model_call.ModelObjective):
    """Several heads of one model; see `heads`."""

    by_name: Mapping[str, tuple[Supervised, float, str]]  # (objective, weight, target column)

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The weighted sum of the heads' losses, and the metrics of each."""
        inputs = model_call.model_inputs(self.model, batch)
        outputs, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        of_rows, scores = jnp.zeros(len(next(iter(batch.values())))), Metrics()
        for name, (objective, weight, target) in self.by_name.items():
            out, columns = outputs[name], {**batch, "y": model_call.column(batch, target)}
            losses = objective.row_losses(out, columns)
            weights = objective.loss_weights(out, columns)
            of_rows += weight * _row_losses(losses, weights, objective.known(out, columns))
            alone = {"loss": Mean.of(losses, weights), **objective.metrics(out, columns, train)}
            scores |= {f"{name}/{metric}": value for metric, value in alone.items()}
        return LossOutput(Mean.of(of_rows, batch.get("mask")), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The predictions of each head, as columns "head/label" and so on."""
        outputs = model_call.evaluate(self.model, variables, batch)
        return {
            f"{name}/{column}": values
            for name, (objective, _, target) in self.by_name.items()
            for column, values in objective.predictions_like(
                outputs[name], batch.get(target)
            ).items()
        }

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model has no output for a head, or a head's targets do not fit."""
        outputs = model_call.output_spec(self.model, spec)
        names = ", ".join(self.by_name)
        if not isinstance(outputs, Mapping) or not set(self.by_name) <= set(outputs):
            gives = f"a dict of {', '.join(outputs)}" if isinstance(outputs, Mapping) else "no dict"
            raise Error(
                f"heads needs a model that gives a dict with an output for each of {names}, but "
                f"it gives {gives}."
            )
        for name, (objective, _, target) in self.by_name.items():
            columns = {**spec, "y": model_call.column(spec, target)}
            known = _bounds_of_target(bounds, target)
            try:
                objective.check_targets(outputs[name].shape, columns, known)
                objective.check_weights(columns, known)
            except Error as error:
                raise Error(f"The head {name}, whose y is the column {target}: {error}") from error


def _bounds_of_target(bounds: Bounds, target: str) -> Bounds:
    """The bounds with those of the target column in place of those of y."""
    others = {name: pair for name, pair in bounds.items() if name not in ("y", sums_of("y"))}
    renamed = {"y": target, sums_of("y"): sums_of(target)}
    return others | {name: bounds[column] for name, column in renamed.items() if column in bounds}


def _row_losses(losses: Array, weights: Array | None, known: Array | None) -> Array:
    """The loss of each row (B,): the mean of weight times loss over its known elements."""
    shape = (len(losses), -1)

    def flat(mask: Array | None) -> Array:
        if mask is None:
            return jnp.ones_like(losses).reshape(shape)
        mask = mask.reshape(mask.shape + (1,) * (losses.ndim - mask.ndim))
        return jnp.broadcast_to(mask, losses.shape).astype(losses.dtype).reshape(shape)

    of_element, count = flat(weights), flat(known).sum(-1)
    weighted = jnp.where(of_element != 0, of_element * losses.reshape(shape), 0)
    return weighted.sum(-1) / count.clip(1)
