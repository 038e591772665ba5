"""A learner around another learner: what EMA, loss scaling and the like have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jdl.types import (
    Array,
    Batch,
    Error,
    Gradients,
    Key,
    Learner,
    Metrics,
    Objective,
    State,
    Variables,
)


@dataclass(frozen=True, eq=False)
class Wrapper(Learner):
    """A learner that changes some of another learner's methods; the others are passed through.

    Most wrappers need only `after`, which is given the states before and after each update. What a
    wrapper keeps from step to step lies in `State.extra` under its own name (`add_extra`).
    """

    learner: Learner

    @property
    def objective(self) -> Objective:  # type: ignore[override]
        """The inner learner's."""
        return self.learner.objective

    @property
    def has_grads(self) -> bool:  # type: ignore[override]
        """Whether the inner learner takes the gradient of a sum over the batch."""
        return self.learner.has_grads

    def init(self, key: Key, batch: Batch) -> State:
        """The inner learner's."""
        return self.learner.init(key, batch)

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The inner learner's."""
        return self.learner.grads(state, batch, key, loss_scale)

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """The inner learner's update, and `after`."""
        return self.after(state, *self.learner.apply_gradients(state, gradients))

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One step of the inner learner, and `after`."""
        if self.has_grads:
            return super().step(state, batch)
        return self.after(state, *self.learner.step(state, batch))

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """The state and the metrics of a step, from those of the inner learner."""
        return new, metrics

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's."""
        return self.learner.eval_variables(state)


def add_extra(state: State, name: str, value: Any) -> State:
    """The state with a wrapper's own arrays; `Error` where one of that name has some."""
    if name in state.extra:
        raise Error(f"This learner has {name} already: wrap it once.")
    return replace(state, extra={**state.extra, name: value})


def set_extra(state: State, name: str, value: Any) -> State:
    """The state with new arrays of that wrapper."""
    return replace(state, extra={**state.extra, name: value})
