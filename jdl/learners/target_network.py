"""Target network: a moving average of the parameters that the loss reads (momentum encoder)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jdl.learners.ema import averaged, current
from jdl.learners.wrapper import Wrapper
from jdl.objectives.byol import TARGET
from jdl.types import Batch, Error, Key, Learner, Metrics, State


def target_network(learner: Learner, decay: float = 0.99) -> TargetNetwork:
    """A target network (momentum encoder; He et al., 2020) for an objective that reads one.

    That is `jdl.objectives.byol`, which learns from a moving average of its own parameters. After
    each update the target is `decay` times itself plus (1 - `decay`) times the parameters; so are
    BatchNorm's running statistics. It is kept in the model state, in the collection "target". The
    more steps a training has, the nearer to 1 should `decay` be, which is constant here; BYOL
    begins with 0.996 and ends with 1 (Grill et al., 2020). Of `jdl.ema` within it, the target would
    be an average of averages: put `jdl.ema` around it.
    """
    if not 0 <= decay < 1:
        raise Error(f"decay, the weight of the old target, must be from 0 to below 1, got {decay}.")
    return TargetNetwork(learner, decay)


@dataclass(frozen=True, eq=False)
class TargetNetwork(Wrapper):
    """Target network; see `target_network`."""

    decay: float

    def init(self, key: Key, batch: Batch) -> State:
        """The target starts at the initial parameters."""
        state = self.learner.init(key, batch)
        if TARGET in state.model_state:
            raise Error("This learner has a target network already: wrap it only once.")
        # A copy, because the same buffer cannot be donated twice.
        target = jax.tree.map(jnp.copy, current(self.learner, state))
        return replace(state, model_state={**state.model_state, TARGET: target})

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Moves the target towards the new parameters."""
        target = averaged(old.model_state[TARGET], current(self.learner, new), self.decay)
        return replace(new, model_state={**new.model_state, TARGET: target}), metrics
