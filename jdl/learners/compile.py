"""How a learner is fed and compiled: functions from learner to learner, which `fit` puts around yours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from jdl.types import Loader, Learner, Metrics, State


def with_data(learner: Learner, data: Loader) -> Learner:
    """The learner whose step takes what `data.read` yields, and makes the batch of it within the step."""

    def step(state: State, source: Any) -> tuple[State, Metrics]:
        return learner.step(state, data.batch(source, state.step))

    return replace(learner, step=step)


def jit_learner(learner: Learner) -> Learner:
    """The learner with `init` and `step` as one XLA program each; the old state's memory is given to the new."""
    return replace(
        learner, init=jax.jit(learner.init), step=jax.jit(learner.step, donate_argnums=0)
    )
