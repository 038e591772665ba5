"""Averaging: a learner that is looked at through the moving average of its parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.types import Batch, Error, Key, Learner, Metrics, State, Variables

STATISTICS = "batch_stats"  # Flax's name for what BatchNorm carries


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Averaged:
    """The inner learner's optimizer state, and the averages beside it."""

    opt: Any
    average: Variables


def ema(learner: Learner, decay: float = 0.999) -> Learner:
    """The same training, looked at through the exponential moving average of parameters and BatchNorm statistics.

    After update t the average is d * average + (1 - d) * parameters, d = min(decay, (1 + t) / (10 + t)): early on it
    forgets its random start quickly (Tan and Le, 2019, and TensorFlow's moving averages).
    """
    if not 0 <= decay < 1:
        raise Error(f"decay is the share of the old average that is kept, from 0 to below 1, and {decay} is not.")

    def averaged(variables: Variables) -> Variables:
        return {name: v for name, v in variables.items() if name in ("params", STATISTICS)}

    def inner(state: State) -> State:
        return replace(state, opt=state.opt.opt)

    def init(key: Key, batch: Batch) -> State:
        state = learner.init(key, batch)
        start = jax.tree.map(jnp.copy, averaged(learner.view(state)))  # a donated buffer may not be given twice
        return replace(state, opt=Averaged(state.opt, start))

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        new, metrics = learner.step(inner(state), batch)
        t = new.step.astype(jnp.float32)
        d = jnp.minimum(decay, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda old, now: (d * old + (1 - d) * now).astype(old.dtype), state.opt.average, averaged(learner.view(new))
        )
        return replace(new, opt=Averaged(new.opt, average)), metrics

    def view(state: State) -> Variables:
        return {**learner.view(inner(state)), **state.opt.average}

    return Learner(init, step, learner.objective, view)
