"""The training loop: `steps`, a generator of training steps, and `train`, which calls hooks.

Evaluation, early stopping and checkpoints are hooks (`jdl.train.hooks`), as are the user's own.
Hooks read the train state and never write it, so a training has the same numbers however often it
is logged, evaluated or saved.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from jdl.learners import SeveralSteps
from jdl.types import Error, Learner, Loader, Metrics, State

IN_FLIGHT = 8  # most calls with unfetched metrics; without a limit, simulated devices deadlock


def steps(
    learner: Learner, data: Loader, state: State, until: int
) -> Iterator[tuple[int, State, Metrics]]:
    """Trains from `state` up to step `until`; yields (step, new state, metrics) after each step.

    Step i + 1 takes batch i, so training can start from the state of any step. The arrays may not
    be computed yet when they are yielded (JAX's asynchronous dispatch), and the state's memory is
    donated to the next step: read or copy it before the next iteration.
    """
    first = step = int(state.step)
    raw_batches = data.read(step)
    while step < until:
        state, metrics = learner.step(state, next(raw_batches))
        step += 1
        if step == first + 1:
            check_count(state, step)
        yield step, state, metrics


def check_count(state: State, step: int) -> None:
    """Raises `Error` where a learner's step does not count the steps.

    Asked once, after the first step of a process: it waits for the device.
    """
    if int(state.step) != step:
        raise Error(
            f"The learner's step returned a state of step {int(state.step)}, and {step} was "
            "expected: return replace(state, step=state.step + 1, ...). The keys of dropout and "
            "augmentation, the batches and the checkpoints go by it."
        )


def calls(
    several: SeveralSteps, data: Loader, state: State, until: int, due: Callable[[int], bool]
) -> Iterator[tuple[int, State, Metrics, int]]:
    """As `steps`, with several steps in each call of the device.

    Yields (step, state, stacked metrics, number of steps) after each call. A call ends where
    `due(step)` is true, and where the next batch has other raw data: that of the next epoch, or
    streamed rows.
    """
    step, following = int(state.step), None
    first = step
    raw_batches = data.read(step)
    while step < until:
        raw = next(raw_batches) if following is None else following
        number, following = 1, None
        while number < min(several.most, until - step) and not due(step + number):
            following = next(raw_batches)
            if not _same_arrays(raw, following):
                break
            number += 1
            following = None
        state, metrics = several(state, raw, number)
        step += number
        if step == first + number:
            check_count(state, step)
        yield step, state, metrics, number


def _same_arrays(a: Any, b: Any) -> bool:
    """Whether two trees hold the very same arrays."""
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(leaves) == len(others) and all(map(operator.is_, leaves, others))


class StepHook(Protocol):
    """A hook of the training loop: it is called after each step at which it is `due`."""

    def due(self, step: int) -> bool:
        """Whether to call it after this step; asked when the hooks before it have been called.

        With several steps a call it is also asked before, of the steps that come next.
        """

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Reads the state and the metrics of this step."""


MetricsHook = Callable[[int, Metrics], None]
"""A function of (step, metrics), called once per step, some steps later: see `MetricsQueue`."""


@dataclass
class MetricsQueue:
    """A queue of the newest steps' metrics, fetched late, so that no device waits for the host."""

    on_metrics: MetricsHook
    waiting: deque[tuple[int, Metrics, int]] = field(default_factory=deque)

    def add(self, step: int, metrics: Metrics, number: int = 0) -> None:
        """Adds the metrics of a step, or the stacked ones of a call of `number` steps up to it.

        When too many wait, fetches half of them at once: each wait costs time.
        """
        self.waiting.append((step, metrics, number))
        if len(self.waiting) > IN_FLIGHT:
            self.fetch(keep=IN_FLIGHT // 2)

    def fetch(self, keep: int = 0) -> None:
        """Passes metrics to `on_metrics`, oldest first, until only `keep` calls wait."""
        while len(self.waiting) > keep:
            step, metrics, number = self.waiting.popleft()
            if not number:
                self.on_metrics(step, metrics)
                continue
            fetched = jax.tree.map(np.asarray, metrics)
            for i in range(number):
                self.on_metrics(step - number + 1 + i, row(fetched, i))


def row(metrics: Metrics, i: int) -> Metrics:
    """The metrics of one step, of stacked ones."""
    return jax.tree.map(lambda rows: rows[i], metrics)


def train(
    learner: Learner,
    data: Loader,
    start: State,
    until: int,
    hooks: Sequence[StepHook] = (),
    on_metrics: MetricsHook = lambda step, metrics: None,
    stop: Callable[[], bool] = lambda: False,
    several: SeveralSteps | None = None,
) -> State:
    """Trains from the state `start` up to step `until`; returns the last state.

    After each step the hooks that are due are called in their order, and training ends early where
    `stop()` is true. Before a hook is called, the metrics of all steps so far have been passed to
    `on_metrics`, so that every step up to a checkpoint has been logged. A hook or `on_metrics` may
    also end the training by raising an exception. With `several` the steps between those at which
    hooks are due are taken several a call.
    """

    def due(step: int) -> bool:
        return any(hook.due(step) for hook in hooks)

    if several is None:
        trained = ((*one, 0) for one in steps(learner, data, start, until))
    else:
        trained = calls(several, data, start, until, due)
    queue, state = MetricsQueue(on_metrics), start
    for step, state, metrics, number in trained:
        queue.add(step, metrics, number)
        for hook in hooks:
            if hook.due(step):
                queue.fetch()
                hook(step, state, row(metrics, number - 1) if number else metrics)
        if stop():
            break
    queue.fetch()
    return state
