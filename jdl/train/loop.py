"""The training loop: a generator of steps, and hooks that are called between them.

Whatever else happens in a training (logging, evaluation, early stopping, checkpoints) is a hook of
`jdl.train.hooks` or of the user. Hooks read the train state and never write it, so a training has
the same numbers however often it is observed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jdl.types import Learner, Loader, Metrics, State

IN_FLIGHT = 8  # steps with metrics not fetched yet; without a bound, simulated devices deadlock


def steps(
    learner: Learner, data: Loader, state: State, until: int
) -> Iterator[tuple[int, State, Metrics]]:
    """Trains from `state` up to step `until`; yields the step's number, the new state, its metrics.

    Batch i is a function of i, so any state can be resumed from. The arrays that are yielded may
    not be computed yet (JAX's asynchronous dispatch), and the state's memory is donated to the next
    step: read it before the generator goes on, or copy it.
    """
    step = int(state.step)
    sources = data.read(step)
    while step < until:
        state, metrics = learner.step(state, next(sources))
        step += 1
        yield step, state, metrics


class StepHook(Protocol):
    """A hook of the loop: it is called after the steps at which it is due."""

    def due(self, step: int) -> bool:
        """Whether it is to be called after this step; hooks before it have been called by then."""

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Reads the state and the metrics of this step."""


MetricsHook = Callable[[int, Metrics], None]
"""A function of (step, metrics), called once for each step, late: when its metrics are fetched."""


@dataclass
class MetricsQueue:
    """Metrics of the newest steps, fetched late, so that the devices never wait for the host."""

    on_metrics: MetricsHook
    waiting: deque[tuple[int, Metrics]] = field(default_factory=deque)

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds a step. Fetches older ones where too many wait, in groups: a wait costs time."""
        self.waiting.append((step, metrics))
        if len(self.waiting) > IN_FLIGHT:
            self.fetch(keep=IN_FLIGHT // 2)

    def fetch(self, keep: int = 0) -> None:
        """Passes the metrics on, step by step, until only so many steps wait."""
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
    """Trains from a state up to step `until`, or until `stop()`; calls the hooks in their order.

    Before a hook is called, the metrics of all steps so far have been passed to `on_metrics`: what
    a checkpoint holds has been logged. A hook or `on_metrics` ends the training by raising.
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
