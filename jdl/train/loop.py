"""The training loop: `steps`, a generator of training steps, and `train`, which calls hooks.

Evaluation, early stopping and checkpoints are hooks (`jdl.train.hooks`), as are the user's own.
Hooks read the train state and never write it, so a training has the same numbers however often it
is logged, evaluated or saved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jdl.types import Learner, Loader, Metrics, State

IN_FLIGHT = 8  # most steps with unfetched metrics; without a limit, simulated devices deadlock


def steps(
    learner: Learner, data: Loader, state: State, until: int
) -> Iterator[tuple[int, State, Metrics]]:
    """Trains from `state` up to step `until`; yields (step, new state, metrics) after each step.

    Step i + 1 takes batch i, so training can start from the state of any step. The arrays may not
    be computed yet when they are yielded (JAX's asynchronous dispatch), and the state's memory is
    donated to the next step: read or copy it before the next iteration.
    """
    step = int(state.step)
    raw_batches = data.read(step)
    while step < until:
        state, metrics = learner.step(state, next(raw_batches))
        step += 1
        yield step, state, metrics


class StepHook(Protocol):
    """A hook of the training loop: it is called after each step at which it is `due`."""

    def due(self, step: int) -> bool:
        """Whether to call it after this step; asked when the hooks before it have been called."""

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Reads the state and the metrics of this step."""


MetricsHook = Callable[[int, Metrics], None]
"""A function of (step, metrics), called once per step, some steps later: see `MetricsQueue`."""


@dataclass
class MetricsQueue:
    """A queue of the newest steps' metrics, fetched late, so that no device waits for the host."""

    on_metrics: MetricsHook
    waiting: deque[tuple[int, Metrics]] = field(default_factory=deque)

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds a step; when too many wait, fetches half of them at once: each wait costs time."""
        self.waiting.append((step, metrics))
        if len(self.waiting) > IN_FLIGHT:
            self.fetch(keep=IN_FLIGHT // 2)

    def fetch(self, keep: int = 0) -> None:
        """Passes metrics to `on_metrics`, oldest first, until only `keep` steps wait."""
        while len(self.waiting) > keep:
            self.on_metrics(*self.waiting.popleft())


def train(
    learner: Learner,
    data: Loader,
    start: State,
    until: int,
    hooks: Sequence[StepHook] = (),
    on_metrics: MetricsHook = lambda step, metrics: None,
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Trains from the state `start` up to step `until`; returns the last state.

    After each step the hooks that are due are called in their order, and training ends early where
    `stop()` is true. Before a hook is called, the metrics of all steps so far have been passed to
    `on_metrics`, so that every step up to a checkpoint has been logged. A hook or `on_metrics` may
    also end the training by raising an exception.
    """
    queue, state = MetricsQueue(on_metrics), start
    for step, state, metrics in steps(learner, data, start, until):
        queue.add(step, metrics)
        for hook in hooks:
            if hook.due(step):
                queue.fetch()
                hook(step, state, metrics)
        if stop():
            break
    queue.fetch()
    return state
