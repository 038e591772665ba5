"""Supervised learning: what the objectives with targets y have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jdl.errors import missing
from jdl.objectives import model_call, weights
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
)


@dataclass(frozen=True, eq=False)
class Supervised(model_call.ModelObjective):
    """Supervised learning: a model's output compared with the targets, the column y.

    A subclass defines what happens to the output: `losses`, `metrics`, `predictions` and
    `check_targets`, besides `known` and `label_weights` where it needs them. All are pure functions
    of the output and the batch, so that `heads` can apply several of them to one model. The loss is
    sum(w * loss) / sum(w) over the known targets of real rows; the weights w are the column
    `row_weights` (sample weights) times those of the labels, 1 by default. Metrics count all rows
    equally.
    """

    row_weights: str | None = field(default=None, kw_only=True)

    def losses(self, out: Any, batch: Batch) -> Array:
        """The loss of each row (B,), or of each of its elements (B, ...)."""
        raise missing(self, "losses")

    def metrics(self, out: Any, batch: Batch, train: bool) -> Metrics:
        """The metrics of a batch, in training or in evaluation."""
        raise missing(self, "metrics")

    def predictions(self, out: Any) -> Batch:
        """The predictions, as columns: label, probability, value, ..."""
        raise missing(self, "predictions")

    def predictions_like(self, out: Any, y: Array | None) -> Batch:
        """The predictions, in the shape of the targets y where that can differ; None: no y."""
        return self.predictions(out)

    def check_targets(self, shape: Any, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the targets do not fit a model's output of this shape."""
        raise missing(self, "check_targets")

    def known(self, out: Any, batch: Batch) -> Array | None:
        """The mask of known targets in real rows, (B,) or (B, ...); None if all are."""
        return batch.get("mask")

    def label_weights(self, out: Any, batch: Batch) -> Array | None:
        """The weight of each target, (B,) or (B, ...), by its class; None if all are 1."""
        return None

    def loss_weights(self, out: Any, batch: Batch) -> Array | None:
        """The weight of each loss, 0 where the target is not known; None if all are 1."""
        of_rows = model_call.column(batch, self.row_weights) if self.row_weights else None
        of_labels = self.label_weights(out, batch)
        return weights.loss_weights(self.known(out, batch), of_rows, of_labels)

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The weighted mean of the losses, and the metrics."""
        return self.loss_of(*self.outputs(variables, batch, key, train), batch, train)

    def row_losses(self, out: Any, batch: Batch) -> Array:
        """The losses; `Error` where they are one number, such as the mean of all rows."""
        losses = self.losses(out, batch)
        if not losses.ndim:
            raise Error(
                "A loss function gives a number for each row, not one for the batch: leave out "
                ".mean(), which jdl takes itself, over the rows that are not padding."
            )
        return losses

    def loss_of(self, out: Any, model_state: Variables, batch: Batch, train: bool) -> LossOutput:
        """The loss and the metrics of a model's output, with its state afterwards."""
        loss = Mean.of(self.row_losses(out, batch), self.loss_weights(out, batch))
        return LossOutput(loss, self.metrics(out, batch, train), model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The predictions for the rows of a batch."""
        return self.predictions_like(
            model_call.evaluate(self.model, variables, batch), batch.get("y")
        )

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if targets or weights do not fit the model."""
        shape = model_call.output_shape(self.model, spec)
        self.check_targets(shape, spec, bounds)
        self.check_weights(spec, bounds)
        self.check_losses(shape, spec)

    def check_losses(self, shape: tuple[int, ...], spec: Batch) -> None:
        """Raises `Error` where each row's loss has one for each other row, by broadcasting."""
        for more in (0, 1):  # of one number of rows alone it may be a coincidence
            rows = shape[0] + more
            out = jax.ShapeDtypeStruct((rows, *shape[1:]), jnp.float32)
            batch = {
                name: jax.ShapeDtypeStruct((rows, *column.shape[1:]), column.dtype)
                for name, column in spec.items()
            }
            if jax.eval_shape(self.losses, out, batch).shape[:2] != (rows, rows):
                return
        raise Error(
            f"The losses of {type(self).__name__} are of shape (B, B) for B rows, one for each "
            "pair of rows, by broadcasting: compare arrays of one shape. Where the model gives "
            "(B, 1) and y is (B,), write out[:, 0]."
        )

    def check_weights(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if `row_weights` names no column of weights."""
        weights.check_row_weights(self.row_weights, spec, bounds)


def target_column(spec: Batch, needed: str) -> Array:
    """The column y; raises `Error` with what is `needed` if it is missing."""
    if "y" not in spec:
        raise Error(f"{needed}, but there is no such column.")
    return spec["y"]


def given(column: Array) -> str:
    """The type and shape of a column, for messages."""
    return f"{column.dtype} of shape {column.shape}"
