"""Stochastic weight averaging (SWA): the equal average of the weights of late steps."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.learners.ema import current
from jdl.learners.wrapper import Wrapper, add_extra, refuse_pruned, set_extra
from jdl.types import Array, Batch, Error, Key, Learner, Metrics, State, Variables


def swa(learner: Learner, start: int, every: int = 1) -> SWA:
    """Stochastic weight averaging (SWA; Izmailov et al., 2018), for evaluation.

    The equal average of the parameters after the steps `start`, `start` + `every`, ...: once an
    epoch, say, at a rate that stays high. Training is unchanged; before `start`, the newest
    parameters are evaluated. BatchNorm's running statistics are averaged alike, and those of the
    averaged weights may be others: `jdl.weights.recompute_batch_stats` takes them from the data.
    """
    if start < 1 or every < 1:
        raise Error(f"swa starts at step 1 or later, every 1 step or more, not {start}, {every}.")
    return SWA(learner, start, every)


@dataclass(frozen=True, eq=False)
class SWA(Wrapper):
    """Stochastic weight averaging; see `swa`."""

    start: int
    every: int

    def init(self, key: Key, batch: Batch) -> State:
        """The average starts at the initial parameters, which do not count."""
        state = self.learner.init(key, batch)
        refuse_pruned(state, "swa")
        # A copy, because the same buffer cannot be donated twice.
        return add_extra(state, "swa", jax.tree.map(jnp.copy, current(self.learner, state)))

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Updates the average, as a running mean; before the start it is the newest parameters."""
        late = new.step - self.start
        count = jnp.maximum(late, 0) // self.every + 1
        taken = (late < 0) | (late % self.every == 0)

        def averaged(old: Array, x: Array) -> Array:
            mean = jnp.where(count == 1, x, old + (x - old) / count.astype(x.dtype))
            return jnp.where(taken, mean, old)

        average = jax.tree.map(averaged, old.extra["swa"], current(self.learner, new))
        return set_extra(new, "swa", average), metrics

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's variables, with parameters and statistics replaced by averages."""
        return {**self.learner.eval_variables(state), **state.extra["swa"]}

    def check_steps(self, steps: int) -> None:
        """Raises `Error` where the average begins after the last step."""
        if self.start > steps:
            raise Error(
                f"swa(start={self.start}) begins after the last step, {steps}, and "
                "would average nothing: let it start earlier, or train for more steps."
            )
