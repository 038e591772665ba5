"""Base class of learner wrappers, such as EMA and loss scaling."""

from __future__ import annotations

from collections.abc import Iterator
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
    """A learner that changes some methods of another learner; the others are passed through.

    Most wrappers define only `after`, which gets the states before and after each update. A wrapper
    stores its own arrays in `State.extra` under its own name (`add_extra`).
    """

    learner: Learner

    @property
    def objective(self) -> Objective:  # type: ignore[override]
        """The inner learner's objective."""
        return self.learner.objective

    @property
    def has_grads(self) -> bool:  # type: ignore[override]
        """Whether the inner learner has `grads` and `apply_gradients`."""
        return self.learner.has_grads

    def init(self, key: Key, batch: Batch) -> State:
        """The inner learner's initial state."""
        return self.learner.init(key, batch)

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The inner learner's gradients."""
        return self.learner.grads(state, batch, key, loss_scale)

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """The inner learner's update, then `after`."""
        return self.after(state, *self.learner.apply_gradients(state, gradients))

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One step of the inner learner, then `after`."""
        if self.has_grads:
            return super().step(state, batch)
        return self.after(state, *self.learner.step(state, batch))

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """The state and the metrics of a step, from those of the inner learner."""
        return new, metrics

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's variables."""
        return self.learner.eval_variables(state)


def unwrapped(learner: Any) -> Iterator[Any]:
    """The learner and those that it is around, one within the other."""
    while learner is not None:
        yield learner
        learner = getattr(learner, "learner", None)


def inner(learner: Any) -> Learner:
    """The learner that wrappers are around."""
    *_, last = unwrapped(learner)
    return last


def add_extra(state: State, name: str, value: Any) -> State:
    """The state with the new entry `name` in `extra`; raises `Error` if there is one already."""
    if name in state.extra:
        raise Error(f"This learner has {name} already: apply that wrapper only once.")
    return replace(state, extra={**state.extra, name: value})


def set_extra(state: State, name: str, value: Any) -> State:
    """The state with a new value of the entry `name` in `extra`."""
    return replace(state, extra={**state.extra, name: value})


def refuse_pruned(state: State, name: str) -> None:
    """Raises `Error` if `jdl.prune` is within a learner that averages: averages would not be 0."""
    if "prune" in state.extra:
        raise Error(
            "An average of weights that were pruned in between is not 0: put jdl.prune around "
            f"jdl.{name}, jdl.prune(jdl.{name}(learner), ...)."
        )
