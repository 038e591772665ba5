"""The predictions of a run as one program: from rows as its data have them to the answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.dataflow import dependences
from jdl.data.dataset import arrays
from jdl.data.loader import DatasetLoader
from jdl.export.example import Example
from jdl.export.program import PLATFORMS, Program, Specs, lower, needed
from jdl.image_bytes import rescale
from jdl.inspect.exceptions import with_line
from jdl.keys import stream
from jdl.objectives.override import merge
from jdl.types import Array, Batch, Error, Predicts, Variables

ROWS = 4  # of an example


@dataclass(frozen=True, eq=False)
class Predict:
    """The predictions for rows as a dataset has them: rescaled, transformed and predicted.

    A barrier keeps the model apart from what comes before it, which is a program of its own in a
    run: fused, the two could round otherwise.
    """

    objective: Predicts
    data: DatasetLoader[Any]

    def __call__(self, variables: Variables, columns: Batch) -> Batch:
        """The predictions (B, ...) by name for columns (B, ...) of the dataset."""
        batch = {
            name: column if column is columns.get(name) else jax.lax.optimization_barrier(column)
            for name, column in model_batch(self.data, columns).items()
        }
        rows = next(iter(batch.values())).shape[0]
        return self.objective.predict(variables, {**batch, "mask": jnp.ones(rows, bool)})


def model_batch(data: DatasetLoader[Any], columns: Batch, keys: Array | None = None) -> Batch:
    """What evaluation makes of columns of the dataset: bytes rescaled, and the transforms."""
    columns = {name: rescale(name, column) for name, column in columns.items()}
    if not data.transforms:
        return columns
    rows = jnp.arange(next(iter(columns.values())).shape[0], dtype=jnp.int32)
    if keys is None:
        epoch = stream(jax.random.key(0), "augment", 0)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(epoch, rows)
    columns = data.augment(keys, {**columns, "id": rows}, jnp.ones(rows.shape, bool))
    return {name: column for name, column in columns.items() if name != "id"}


def predict_program(
    objective: Predicts,
    variables: Variables,
    data: DatasetLoader[Any],
    platforms: Sequence[str] = PLATFORMS,
) -> Program:
    """The program "predict": columns as the dataset has them to the objective's predictions.

    The inputs are the columns that the predictions depend on. Of sequences with a column `length`
    the time is symbolic, up to that of the data, where the model can be traced so. Raises `Error`
    where transforms draw random numbers, and where a model cannot be traced for any batch.
    """
    columns = raw_columns(data)
    _check_transforms(data, columns)
    function = Predict(objective, data)
    try:
        _, inputs = needed(function, variables, columns)
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        raise Error(
            f"The shapes of these predictions depend on the data, and a program has fixed ones: "
            f"{with_line(error)}"
        ) from error
    inputs = inputs or {"x"}
    *times, last = _times(columns, inputs)
    for time in times:
        with suppress(Error):
            return lower("predict", function, variables, columns, inputs, time, platforms)
    return lower("predict", function, variables, columns, inputs, last, platforms)


def raw_columns(data: DatasetLoader[Any]) -> Specs:
    """The columns (B, ...) of the dataset, before anything is done to them."""
    rows = data.dataset.take(np.zeros(data.batch_size, np.int32))
    return {
        name: jax.ShapeDtypeStruct(column.shape, column.dtype)
        for name, column in rows.items()
        if name != "id"
    }


def _times(columns: Specs, inputs: set[str]) -> tuple[int | None, ...]:
    """The time axes to try: that of x, symbolic, where it has a length; then none."""
    if {"length", "x"} <= inputs and columns["x"].ndim > 1:
        return columns["x"].shape[1], None
    return (None,)


def _check_transforms(data: DatasetLoader[Any], columns: Specs) -> None:
    """Raises `Error` where what evaluation does to the inputs is random."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), data.batch_size))
    jaxpr = jax.make_jaxpr(lambda keys, columns: model_batch(data, columns, keys))(keys, columns)
    if any(0 in output.inputs for output in dependences(jaxpr.jaxpr)):
        raise Error(
            "The transforms of the evaluation data draw random numbers, so that a row has no one "
            "answer: give Run(test=...) data without them."
        )


def predict_example(
    objective: Predicts,
    variables: Variables,
    data: DatasetLoader[Any],
    platforms: Sequence[str] = PLATFORMS,
) -> Example:
    """The program "predict", with the run's own predictions for the first rows of the data."""
    program = predict_program(*merge(objective, variables), data, platforms)
    rows = data.dataset.take(np.arange(min(ROWS, len(data.dataset)), dtype=np.int32))
    columns = {name: column for name, column in rows.items() if name != "id"}
    batch = arrays(**columns).map(*data.transforms).batches(len(rows["id"]))[0]
    outputs = jax.jit(objective.predict)(variables, batch)
    inputs = {name: columns[name] for name in program.inputs}
    return Example(program, inputs, {name: np.asarray(out) for name, out in outputs.items()})
