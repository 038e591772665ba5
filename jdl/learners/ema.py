"""Exponential moving average of the parameters (Polyak averaging)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.learners.wrapper import Wrapper, add_extra, set_extra
from jdl.types import BATCH_STATS, Batch, Error, Key, Learner, Metrics, State, Variables


def ema(learner: Learner, decay: float = 0.999) -> EMA:
    """The same training, evaluated with the exponential moving average (EMA) of the parameters.

    BatchNorm's running statistics are averaged too. After update t the average is d * average + (1
    - d) * parameters with d = min(decay, (1 + t) / (10 + t)), so that it forgets the random start
    quickly (Tan and Le, 2019, as in TensorFlow's moving averages).
    """
    if not 0 <= decay < 1:
        raise Error(
            f"decay is the share of the old average that stays, from 0 to below 1: {decay} is not."
        )
    return EMA(learner, decay)


@dataclass(frozen=True, eq=False)
class EMA(Wrapper):
    """Exponential moving average; see `ema`."""

    decay: float

    def init(self, key: Key, batch: Batch) -> State:
        """The average starts at the initial parameters."""
        state = self.learner.init(key, batch)
        # Copied, because a donated buffer may not be given twice.
        return add_extra(state, "ema", jax.tree.map(jnp.copy, self._current(state)))

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Moves the average."""
        t = new.step.astype(jnp.float32)
        d = jnp.minimum(self.decay, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda a, b: (d * a + (1 - d) * b).astype(a.dtype), old.extra["ema"], self._current(new)
        )
        return set_extra(new, "ema", average), metrics

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's, with the averages in their place."""
        return {**self.learner.eval_variables(state), **state.extra["ema"]}

    def _current(self, state: State) -> Variables:
        variables = self.learner.eval_variables(state)
        return {name: v for name, v in variables.items() if name in ("params", BATCH_STATS)}
