"""Annealing: numbers of an objective, such as the weight of a loss term, by schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.objectives.override import map_variables, override
from jdl.types import (
    ANNEALING,
    Array,
    Batch,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Objective,
    Variables,
)

Schedule = Callable[[Array], Any]


def anneal(objective: Objective, **schedules: Schedule) -> Objective:
    """Annealing (KL annealing; warm-up of a loss weight): numbers of an objective by schedules.

    `anneal(elbo(vae), beta=optax.linear_schedule(0.0, 1.0, 1_000))` trains with the beta of the
    step. `schedules` are functions of the number of steps so far, as Optax's are, by the name of a
    field of the objective that is a float; it is a dataclass, jdl's or your own. In evaluation the
    fields keep the values that they have, so that the losses of two steps compare. The number of
    steps is that of the training, whatever micro-batches, devices and restarts: `jdl.descent` gives
    it, in the collection "annealing" of the model state. Metrics, in training: the values, by their
    names.

    Other wrappers go around it: `freeze(anneal(...), pattern)`.
    """
    _check(objective, schedules)

    def init(key: Key, batch: Batch) -> Variables:
        return {**objective.init(key, batch), ANNEALING: {"step": jnp.zeros((), jnp.int32)}}

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        if not train:
            return plain.loss(variables, batch, key, train)
        step = variables[ANNEALING]["step"]
        with jax.numpy_dtype_promotion("standard"):  # schedules multiply whole numbers by floats
            values = {name: jnp.asarray(of(step), jnp.float32) for name, of in schedules.items()}
        at_step: Any = replace(objective, **values)  # type: ignore[type-var]
        output = at_step.loss(_without_step(variables), batch, key, train)
        if twice := output.metrics.keys() & values.keys():
            raise Error(f"The objective has a metric {min(twice)} already: rename one of the two.")
        count = output.loss.count
        metrics: Metrics = {name: Mean(value * count, count) for name, value in values.items()}
        model_state = {**output.model_state, ANNEALING: variables[ANNEALING]}
        return LossOutput(output.loss, {**output.metrics, **metrics}, model_state)

    plain = map_variables(objective, _without_step, keep=ANNEALING)
    return override(plain, init=init, loss=loss)


def _without_step(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != ANNEALING}


def _check(objective: Any, schedules: dict[str, Schedule]) -> None:
    """Raises `Error` unless each schedule is one, of a number of the objective."""
    if not schedules:
        raise Error("anneal needs a schedule: anneal(elbo(vae), beta=optax.linear_schedule(...)).")
    if not is_dataclass(objective):
        raise Error(
            f"anneal changes fields of a dataclass, and {type(objective).__name__} is none. Apply "
            "it first, and wrappers around it: freeze(anneal(...), pattern)."
        )
    numbers = {
        name: value
        for name, value in vars(objective).items()
        if isinstance(value, float)  # a count cannot follow the steps
    }
    for name, schedule in schedules.items():
        if name not in numbers:
            raise Error(
                f"{type(objective).__name__} has no float {name} that could be annealed, but "
                f"{', '.join(numbers) or 'none at all'}."
            )
        if not callable(schedule):
            raise Error(
                f"{name}={schedule!r} is no schedule, a function of the step such as "
                "optax.linear_schedule(0.0, 1.0, 1_000)."
            )
        with jax.numpy_dtype_promotion("standard"):
            value = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        if getattr(value, "shape", ()) != ():
            raise Error(f"The schedule of {name} gives an array {value.shape} and no number.")
