"""Learner wrappers of `fit`: batches made within the step, and `jax.jit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jdl.learners.wrapper import Wrapper
from jdl.types import Batch, Key, Learner, Loader, Metrics, State


@dataclass(frozen=True, eq=False)
class WithData(Wrapper):
    """A learner whose step makes the batch from a loader's raw data; see `with_data`."""

    data: Loader

    def step(self, state: State, raw: Any) -> tuple[State, Metrics]:
        """One step on batch number `state.step`."""
        return self.learner.step(state, self.data.batch(raw, state.step))


def with_data(learner: Learner, data: Loader) -> WithData:
    """The learner with a step that takes what `data.read` yields, and makes the batch itself."""
    return WithData(learner, data)


@dataclass(frozen=True, eq=False)
class CompiledLearner(Wrapper):
    """A learner with compiled `init` and `step`; see `jit_learner`."""

    init_fn: Callable[[Key, Batch], State]
    step_fn: Callable[[State, Any], tuple[State, Metrics]]

    def init(self, key: Key, batch: Batch) -> State:
        """The initial state."""
        return self.init_fn(key, batch)

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One step."""
        return self.step_fn(state, batch)


def trace_once(learner: Learner) -> CompiledLearner:
    """The learner with `init` and `step` traced once for all programs that they become part of.

    A run is checked by its shapes before it is compiled. By `inline=True` the programs are the
    same as without.
    """
    return CompiledLearner(
        learner, jax.jit(learner.init, inline=True), jax.jit(learner.step, inline=True)
    )


def jit_learner(learner: Learner) -> CompiledLearner:
    """The learner with `init` and `step` compiled by `jax.jit`; the old state is donated."""
    return CompiledLearner(learner, jax.jit(learner.init), jax.jit(learner.step, donate_argnums=0))
