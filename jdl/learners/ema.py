"""Exponential moving average of the parameters (Polyak averaging)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.learners.wrapper import Wrapper, add_extra, refuse_pruned, set_extra
from jdl.types import BATCH_STATS, Array, Batch, Error, Key, Learner, Metrics, State, Variables


def ema(learner: Learner, decay: float = 0.999) -> EMA:
    """Exponential moving average (EMA) of the parameters, for evaluation; training is unchanged.

    BatchNorm's running statistics are averaged too. After update t the average is d * average + (1
    - d) * parameters with d = min(decay, (1 + t) / (10 + t)), so that it forgets the initial
    parameters quickly (Tan and Le, 2019, as in TensorFlow's moving averages).
    """
    if not 0 <= decay < 1:
        raise Error(
            f"decay, the weight of the old average, must be from 0 to below 1, got {decay}."
        )
    return EMA(learner, decay)


@dataclass(frozen=True, eq=False)
class EMA(Wrapper):
    """Exponential moving average; see `ema`."""

    decay: float

    def init(self, key: Key, batch: Batch) -> State:
        """The average starts at the initial parameters."""
        state = self.learner.init(key, batch)
        refuse_pruned(state, "ema")
        # A copy, because the same buffer cannot be donated twice.
        return add_extra(state, "ema", jax.tree.map(jnp.copy, current(self.learner, state)))

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Updates the average."""
        t = new.step.astype(jnp.float32)
        d = jnp.minimum(self.decay, (1 + t) / (10 + t))
        average = averaged(old.extra["ema"], current(self.learner, new), d)
        return set_extra(new, "ema", average), metrics

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's variables, with parameters and statistics replaced by averages."""
        return {**self.learner.eval_variables(state), **state.extra["ema"]}


def current(learner: Learner, state: State) -> Variables:
    """The variables that are averaged: the parameters, and BatchNorm's running statistics."""
    variables = learner.eval_variables(state)
    return {name: v for name, v in variables.items() if name in ("params", BATCH_STATS)}


def averaged(average: Variables, new: Variables, decay: Array | float) -> Variables:
    """The moving average of variables after new ones, leaf by leaf."""
    return jax.tree.map(lambda a, b: (decay * a + (1 - decay) * b).astype(a.dtype), average, new)
