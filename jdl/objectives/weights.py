"""Weights of the loss: of rows (sample weights) and of classes (class imbalance)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import jax.numpy as jnp

from jdl.objectives import model_call
from jdl.types import Array, Batch, Bounds, Error

ClassWeights = Iterable[float]  # K numbers: a sequence or an array


def class_weights_of(
    weights: ClassWeights | None, name: str = "class_weights"
) -> tuple[float, ...]:
    """The weights as a tuple, () for None; raises `Error` for what cannot be weights."""
    if weights is None:
        return ()
    if isinstance(weights, str):
        raise Error(
            f"{name} takes a number for each class, not {weights!r}: an objective never sees the "
            'whole data. jdl.data.class_weights(train) gives the weights called "balanced".'
        )
    if isinstance(weights, Mapping):
        raise Error(
            f"{name} takes a sequence, with the weight of class k at place k, not a dict: write "
            f"[weights[k] for k in range({len(weights)})]."
        )
    numbers = tuple(float(weight) for weight in weights)
    if not all(math.isfinite(n) and n >= 0 for n in numbers) or not any(numbers):
        raise Error(f"{name} must be finite, not negative and not all 0, but they are {numbers}.")
    return numbers


def check_class_weights(
    weights: tuple[float, ...], classes: int, name: str = "class_weights"
) -> None:
    """Raises `Error` if there are weights, but not one for each class."""
    if weights and len(weights) != classes:
        raise Error(
            f"{name} has {len(weights)} numbers, but there are {classes} classes: give one number "
            "for each."
        )


def check_row_weights(column: str | None, spec: Batch, bounds: Bounds) -> None:
    """Raises `Error` if the weights are not a column (B,) of numbers from 0 on."""
    if column is None:
        return
    weights = model_call.column(spec, column)
    if weights.ndim != 1:
        raise Error(
            f"row_weights names the column {column}, which is of shape {weights.shape}: it must "
            "have one weight for each row."
        )
    least, greatest = bounds.get(column, (0, 1))
    if least < 0 or greatest <= 0:
        raise Error(
            f"The column {column} has weights from {least} to {greatest}: they must not be "
            "negative, and not all 0."
        )


def loss_weights(known: Array | None, *factors: Array | None) -> Array | None:
    """What to give to `Mean.of` besides the losses: the `known` mask times all weights.

    Mask and factors are None or of shapes (B,) to (B, ...). What is not known has the weight 0,
    whatever its factors hold. Without factors it is the mask itself.
    """
    weights = [factor.astype(jnp.float32) for factor in factors if factor is not None]
    if not weights:
        return known
    parts = [*weights, *(() if known is None else (known,))]
    rank = max(part.ndim for part in parts)
    product, *others = (_to_rank(weight, rank) for weight in weights)
    for other in others:
        product = product * other
    return product if known is None else jnp.where(_to_rank(known, rank).astype(bool), product, 0)


def _to_rank(array: Array, rank: int) -> Array:
    return array.reshape(array.shape + (1,) * (rank - array.ndim))
