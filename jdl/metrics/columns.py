"""What metrics read of an objective's predictions and of the batch, and which rows count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jdl.types import Array, Error

Columns = Mapping[str, Any]  # columns by name: predictions, or a batch


class Scored(NamedTuple):
    """Probabilities (B, ..., K) with labels: (B, ...) of K classes, or (..., K) of 0 and 1 each."""

    probability: Array
    labels: Array  # int32, and float32 where there are several: they may be soft
    weights: Array | None  # a mask, or weights, of the labels' shape; None: all count alike

    @property
    def multi_label(self) -> bool:
        """Whether each row has K labels of 0 and 1, not one of K classes."""
        return self.labels.ndim == self.probability.ndim

    def positive(self) -> Array:
        """The probability of the label 1, (B, ...), for two classes; or of each label, (B, K)."""
        binary = self.probability.shape[-1] == 2 and not self.multi_label
        return self.probability[..., 1] if binary else self.probability


def scored(predictions: Columns, batch: Columns, target: str, row_weights: str | None) -> Scored:
    """The predicted probabilities, the labels in the column `target`, and their weights.

    Targets (..., K) are several labels a row where the objective predicts several, or no label at
    all. Else they are one-hot or soft labels, of which the likeliest class is taken.
    """
    probability = jnp.asarray(column(predictions, "probability", "predictions")).astype(jnp.float32)
    labels = jnp.asarray(column(batch, target, "batch"))
    if labels.shape not in (probability.shape, probability.shape[:-1]):
        raise Error(
            f"The metric compares probabilities of shape {probability.shape} with labels of shape "
            f"{labels.shape} in the column {target}: it needs one class a row, "
            f"{probability.shape[:-1]}, or 0 and 1 for each label, {probability.shape}."
        )
    if labels.ndim == probability.ndim:
        if jnp.ndim(predictions.get("label", labels)) == labels.ndim:
            weight = label_weights(batch, labels, row_weights, multi_label=True)
            return Scored(probability, labels.astype(jnp.float32), weight)
        labels = labels.argmax(-1)
    labels = labels.astype(jnp.int32)
    return Scored(probability, labels, label_weights(batch, labels, row_weights))


def values(
    predictions: Columns, batch: Columns, target: str, row_weights: str | None
) -> tuple[Array, Array, Array | None]:
    """The predicted values (B, K), the targets in the column `target` (B, K), and their weights.

    Of targets for each time step of series with a `length` each step is a row.
    """
    predicted = jnp.asarray(column(predictions, "value", "predictions")).astype(jnp.float32)
    targets = jnp.asarray(column(batch, target, "batch")).astype(jnp.float32)
    if predicted.size != targets.size or len(predicted) != len(targets):
        raise Error(
            f"The metric compares values of shape {predicted.shape} with targets of shape "
            f"{targets.shape} in the column {target}: make them equal."
        )
    rows = len(predicted)
    weight = label_weights(batch, targets.reshape(rows, -1)[:, 0], row_weights)
    real = real_values(batch, targets.shape)
    if real is not None and real.ndim == 2:
        weight = (
            real
            if weight is None
            else jnp.where(real, weight[:, None], jnp.zeros((), weight.dtype))
        )
        rows, weight = real.size, weight.reshape(-1)
    return predicted.reshape(rows, -1), targets.reshape(rows, -1), weight


def real_values(batch: Columns, shape: tuple[int, ...]) -> Array | None:
    """The mask of targets of this shape that are not padding; None: all are real.

    It is (B, T) where x has the same T time steps, of which the column `length` has the number that
    is real, and else that of the rows (B,).
    """
    mask = None if batch.get("mask") is None else jnp.asarray(batch["mask"]).astype(bool)
    if "length" not in batch or "x" not in batch or len(shape) < 2:
        return mask
    if jnp.shape(batch["x"])[1:2] != shape[1:2]:  # targets of the row, or of steps to come
        return mask
    real = within_length(batch, shape[1])
    return real if mask is None else real & mask[:, None]


def within_length(batch: Columns, steps: int) -> Array:
    """The mask (B, steps) of the time steps that are real, by the column `length`."""
    return jnp.arange(steps)[None] < jnp.asarray(batch["length"])[:, None]


def label_weights(
    batch: Columns, labels: Array, row_weights: str | None, multi_label: bool = False
) -> Array | None:
    """How much each label (B, ...) counts: 0 if it is padding or unknown (-1, if one of many).

    The mask of what counts, or the column `row_weights` (B,) where it does. None: all count alike.
    """
    mask = None if batch.get("mask") is None else jnp.asarray(batch["mask"]).astype(bool)
    if labels.ndim > 1:
        known = labels >= 0
        if "length" in batch and labels.ndim > 1 + multi_label:
            steps = within_length(batch, labels.shape[1])
            known &= steps.reshape(steps.shape + (1,) * (labels.ndim - 2))
        mask = known if mask is None else known & mask.reshape(-1, *(1,) * (labels.ndim - 1))
    if row_weights is None:
        return mask
    weight = jnp.asarray(column(batch, row_weights, "batch")).astype(jnp.float32)
    if weight.shape != (len(labels),):
        raise Error(f"The weights in {row_weights} must be one number a row, not {weight.shape}.")
    if mask is None:
        return weight
    return jnp.where(mask, weight.reshape(-1, *(1,) * (mask.ndim - 1)), 0)


def column(columns: Columns, name: str, of: str) -> Any:
    """A column of the predictions or of the batch; raises `Error` if it is missing."""
    if name not in columns:
        of_head = next((other for other in sorted(columns) if other.endswith(f"/{name}")), None)
        cure = f" Of heads: give the metric {{{name!r}: predictions[{of_head!r}], ...}}."
        raise Error(
            f"The metric needs the column {name} of the {of}, which has only "
            f"{', '.join(sorted(columns))}.{cure if of_head else ''}"
        )
    return columns[name]


def ratio(part: Any, whole: Any) -> Any:
    """part / whole, and 0 where the whole is 0 and with it the part.

    No `jnp` functions: these are JAX arrays in a step, 64-bit NumPy arrays after merging.
    """
    return part / (whole + (whole == 0).astype(whole.dtype))
