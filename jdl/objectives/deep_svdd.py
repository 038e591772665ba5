"""Anomaly detection by deep SVDD: distances from the center of what is normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.model_keywords import name_of
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Variables

CENTER = "center"  # the collection with the center, which is not trained
LEAST = 0.1  # of a center's coordinates, in size


def deep_svdd(model: Any, center: Sequence[float] | None = None) -> DeepSVDD:
    """Deep SVDD (one-class; Ruff et al., 2018): maps normal rows x (B, ...) close to one point.

    The loss is the squared distance of the model's outputs (B, D) from a fixed center; the
    optimizer's weight decay is the paper's regularization. Train it on normal rows alone. By
    default the center is the mean of the fresh model's outputs for the batch that training begins
    with, coordinates near 0 moved to -0.1 or 0.1. Predictions: code, the output, and distance (B,),
    the squared distance, high for rows unlike those of the training: the anomaly score. Metric:
    distance.

    The loss would be 0, and say nothing, if the model gave the center for every row. So the center
    is not trained, and a model that does not give 0 for a row of zeros, as one with biases, is
    refused: 0 is not the center. Ways to a constant are left that this does not show, such as a
    bounded activation (tanh), which saturates, and columns of x that are nearly the same, or sum up
    to nearly the same, in all rows.
    """
    if center is not None and not np.isfinite(np.asarray(center, np.float64)).all():
        raise Error(f"The center must be finite numbers, not {list(center)}.")
    if center is not None and not np.any(center):
        raise Error(
            "A center of zeros is where a model whose weights are all zero puts every row: give "
            "another, or leave it out."
        )
    return DeepSVDD(model, None if center is None else tuple(float(c) for c in center))


@dataclass(frozen=True, eq=False)
class DeepSVDD(model_call.ModelObjective):
    """Deep SVDD; see `deep_svdd`."""

    center: tuple[float, ...] | None

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables, and the center."""
        variables = super().init(key, batch)
        if self.center is not None:
            center = jnp.asarray(self.center, jnp.float32)
        else:
            code = model_call.evaluate(self.model, variables, batch)
            real = batch.get("mask", jnp.ones(len(code), bool)).astype(bool)
            rows = real.sum().astype(jnp.float32).clip(1)
            mean = jnp.where(real[:, None], code, 0).sum(0) / rows
            center = jnp.where(jnp.abs(mean) < LEAST, jnp.where(mean < 0, -LEAST, LEAST), mean)
        return {**variables, CENTER: {"value": center}}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean squared distance from the center."""
        inputs = model_call.model_inputs(self.model, batch)
        model = _of_model(variables)
        out, model_state = model_call.apply(self.model, model, inputs, batch, key, train)
        loss = Mean.of(self._distances(variables, out), batch.get("mask"))
        state = {**model_state, CENTER: variables[CENTER]}
        return LossOutput(loss, {"distance": loss}, state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The code (B, D) and the squared distance (B,) from the center of each row."""
        code = model_call.evaluate(self.model, _of_model(variables), batch)
        return {"code": code, "distance": self._distances(variables, code)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model gives no vectors of the center's size, or has biases."""
        shape = model_call.output_shape(self.model, spec)
        if len(shape) != 2 or (self.center is not None and shape[1] != len(self.center)):
            needed = "D" if self.center is None else len(self.center)
            raise Error(f"deep_svdd needs outputs (B, {needed}), and the model's are {shape}.")
        _refuse_biases(self.model, spec)

    def _distances(self, variables: Variables, code: Array) -> Array:
        center = variables[CENTER]["value"].astype(jnp.float32)
        return jnp.square(code - center[None]).sum(-1)


def _of_model(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != CENTER}


def _refuse_biases(model: Any, spec: Batch) -> None:
    """Raises `Error` if the model gives another output than 0 for a row of zeros.

    Its parameters are random numbers, as fresh biases are often 0.
    """
    row = {name: jnp.zeros((1, *column.shape[1:]), column.dtype) for name, column in spec.items()}
    inputs = model_call.model_inputs(model, row)

    @jax.jit
    def output(key: Key) -> Array:
        fresh = model_call.init(model, stream(key, "init"), row, *inputs)
        leaves, tree = jax.tree.flatten(fresh["params"])
        drawn = [
            jax.random.normal(stream(key, "leaf", n), leaf.shape, leaf.dtype)
            for n, leaf in enumerate(leaves)
        ]
        return model_call.evaluate(model, {**fresh, "params": jax.tree.unflatten(tree, drawn)}, row)

    if (output(jax.random.key(0)) != 0).any():
        raise Error(
            f"{name_of(model)} may give something else than 0 for a row of zeros, by biases or "
            "learned positions, which alone could give the center for every row: use a model "
            "without, such as MLP(..., use_bias=False)."
        )
