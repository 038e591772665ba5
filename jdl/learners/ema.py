"""Averaging: a learner that is looked at through the moving average of its parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.types import (
    STATISTICS,
    Array,
    Batch,
    Error,
    Halves,
    Key,
    Learner,
    Metrics,
    State,
    Sums,
    Variables,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Averaged:
    """The inner learner's optimizer state, and the averages beside it."""

    opt_state: Any
    average: Variables


def ema(learner: Learner, decay: float = 0.999) -> Learner:
    """The same training, looked at through the exponential moving average of parameters and BatchNorm statistics.

    After update t the average is d * average + (1 - d) * parameters, d = min(decay, (1 + t) / (10 + t)): early on it
    forgets its random start quickly (Tan and Le, 2019, and TensorFlow's moving averages).
    """
    if not 0 <= decay < 1:
        raise Error(
            f"decay is the share of the old average that is kept, from 0 to below 1, and {decay} is not."
        )

    def averaged(variables: Variables) -> Variables:
        return {name: v for name, v in variables.items() if name in ("params", STATISTICS)}

    def inner(state: State) -> State:
        return replace(state, opt_state=state.opt_state.opt_state)

    def init(key: Key, batch: Batch) -> State:
        state = learner.init(key, batch)
        start = jax.tree.map(
            jnp.copy, averaged(learner.view(state))
        )  # a donated buffer may not be given twice
        return replace(state, opt_state=Averaged(state.opt_state, start))

    def followed(state: State, moved: tuple[State, Metrics]) -> tuple[State, Metrics]:
        new, metrics = moved
        t = new.step.astype(jnp.float32)
        d = jnp.minimum(decay, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda old, now: (d * old + (1 - d) * now).astype(old.dtype),
            state.opt_state.average,
            averaged(learner.view(new)),
        )
        return replace(new, opt_state=Averaged(new.opt_state, average)), metrics

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        return followed(state, learner.step(inner(state), batch))

    def view(state: State) -> Variables:
        return {**learner.view(inner(state)), **state.opt_state.average}

    def halved(halves: Halves) -> Halves:
        def sums(state: State, batch: Batch, key: Key, scale: Array | float = 1.0) -> Sums:
            return halves.sums(inner(state), batch, key, scale)

        def update(state: State, sums: Sums) -> tuple[State, Metrics]:
            return followed(state, halves.update(inner(state), sums))

        return Halves(sums, update)

    halves = halved(learner.halves) if learner.halves else None
    return Learner(init, step, learner.objective, view, halves)
