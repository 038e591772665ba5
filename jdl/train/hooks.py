"""The hooks of the training loop: evaluation, samples, early stopping, checkpoints.

The loop calls those that are due at a step in this order, so that a state is evaluated and logged
before it is saved. Each reads the state and never writes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jdl.learners import checked_metrics
from jdl.metrics import scalars
from jdl.numbers import number_text
from jdl.run import Run
from jdl.store.checkpoints import Checkpoints, is_better
from jdl.train.outputs import Outputs
from jdl.train.preemption import PausedError, StopRequests
from jdl.types import Metrics, State

TRAINING_PER_EVALUATION = 10  # training between two evaluations takes 10 times as long as one
FORWARDS_PER_STEP = 3  # a training step costs as much as 3 forward passes: backward costs 2


@dataclass
class TrainingLog:
    """Logs training metrics: every step in the step trace, every `every` steps in the log.

    Where the loss, the gradient norm or the parameter norm is not finite, it calls
    `on_nonfinite(step, name, value)`. Every `every` steps it also calls `look`, and raises the
    error of a save that has failed.
    """

    outputs: Outputs
    every: int
    on_nonfinite: Callable[[int, str, float], None]
    look: Callable[[], None] = lambda: None
    loss: float | None = None  # the last that was logged

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Fetches and logs the metrics of a step."""
        totals = {name: float(np.asarray(m.total)) for name, m in checked_metrics(metrics).items()}
        self.outputs.log.trace(totals)
        nonfinite = [name for name, total in totals.items() if not math.isfinite(total)]
        if nonfinite or step % self.every == 0:
            numbers = scalars(jax.tree.map(np.asarray, metrics))
            self.outputs.log.write(step, "train", numbers)
            self.loss = numbers.get("loss")
            if nonfinite:
                self.on_nonfinite(step, nonfinite[0], numbers[nonfinite[0]])
        if step % self.every == 0:
            self.look()
            self.outputs.checkpoints.check()
        self.outputs.display.step(step, self.loss)


def default_eval_every(run: Run) -> int:
    """The default of `eval_every`: a twentieth of the run, or more where evaluation is costly.

    Evaluation should take no more than a tenth of the time of training. Both are estimated from the
    number of rows, not measured, so that equal runs are evaluated at the same steps: one forward
    pass per row of evaluation, three per row of training. In reinforcement learning, where rows are
    no measure of the cost, it is a twentieth, but at least 10 steps.
    """
    data = run.test if run.valid is None else run.valid
    if not run.learner.has_grads:
        return max(TRAINING_PER_EVALUATION, run.config.steps // 20)
    forwards = 0 if data is None else data.num_examples
    step = FORWARDS_PER_STEP * run.train.batch_size
    affordable = math.ceil(TRAINING_PER_EVALUATION * forwards / step)
    return max(1, run.config.steps // 20, affordable)


def default_save_every(steps: int) -> int:
    """The default of `save_every`: a twentieth of the run.

    A checkpoint is saved in a thread, in parallel to training.
    """
    return max(1, steps // 20)


@dataclass
class Evaluation:
    """The evaluation hook: every `every` steps (0: only at the `last`).

    `evaluators` compute the metrics of a state, by split; during training only the first split is
    evaluated: the validation set, or the test set where there is none.
    """

    evaluators: Mapping[str, Callable[[State], Metrics]]
    every: int
    last: int
    outputs: Outputs
    metrics: dict[str, Metrics] = field(default_factory=dict)  # the newest, by split
    steps: dict[str, int] = field(default_factory=dict)  # the step of these metrics, by split

    def due(self, step: int) -> bool:
        """Every `every` steps and at the last step, if there is a split to evaluate on."""
        return bool(self.evaluators) and (step == self.last or is_multiple(step, self.every))

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Evaluates on the first split."""
        self.evaluate(step, state)

    def evaluate(self, step: int, state: State, split: str = "") -> dict[str, float]:
        """Evaluates a split and logs the numbers; at most once per step and split."""
        split = split or next(iter(self.evaluators))
        if self.steps.get(split) != step:
            self.metrics[split], self.steps[split] = self.evaluators[split](state), step
            numbers = scalars(self.metrics[split])
            self.outputs.log.write(step, split, numbers)
            texts = [f"{name} {number_text(v)}" for name, v in numbers.items() if "/" not in name]
            self.outputs.display.note(f"Step {step:>7,}  {split:<5}  {'  '.join(texts)}")
        return scalars(self.metrics[split])

    def evaluate_all(self, state: State) -> dict[str, Metrics]:
        """Evaluates every split at the end of training; the metrics by split."""
        for split in self.evaluators:
            self.evaluate(int(state.step), state, split)
        self.outputs.log.flush()
        return {**self.metrics}

    def numbers_at(self, step: int) -> dict[str, float]:
        """The first split's numbers if it was evaluated at this step; else an empty dict."""
        split = next(iter(self.evaluators), "")
        return scalars(self.metrics[split]) if self.steps.get(split) == step else {}


@dataclass
class Patience:
    """The state of early stopping, saved in checkpoints: the best value, and bad checks since.

    A hook that raises `Stop` ends the training for good too: `stopped`.
    """

    criterion: str  # "max NAME" or "min NAME"
    limit: int  # bad checks in a row after which training stops; 0: never
    best: float | None = None
    bad_checks: int = 0
    stopped: bool = False

    def check(self, numbers: dict[str, float]) -> None:
        """Updates the best value and the count of bad checks by the numbers of one evaluation."""
        mode, metric = self.criterion.split()
        if is_better(mode, numbers[metric], self.best):
            self.best, self.bad_checks = numbers[metric], 0
        else:
            self.bad_checks += 1

    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.stopped or 0 < self.limit <= self.bad_checks

    def saved(self) -> dict[str, Any]:
        """The state to save in a checkpoint, as JSON."""
        saved = {"best": self.best, "bad_checks": self.bad_checks}
        return {**saved, "stopped": True} if self.stopped else saved


@dataclass(frozen=True)
class EarlyStopping:
    """Early stopping: checks every `every` steps whether the metric has improved.

    `every` is in the config, and only these checks count, not other evaluations: the step at which
    training stops must not depend on `eval_every`.
    """

    patience: Patience
    every: int
    evaluation: Evaluation

    def due(self, step: int) -> bool:
        """Every `every` steps, if early stopping is on."""
        return self.patience.limit > 0 and is_multiple(step, self.every)

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Evaluates the first split, and checks it."""
        self.patience.check(self.evaluation.evaluate(step, state))
        if self.patience.exhausted():
            checks = f"{self.patience.bad_checks} checks without improvement"
            display = self.evaluation.outputs.display
            display.note(f"Step {step:,}: stopped early, after {checks}")


@dataclass(frozen=True)
class SamplePictures:
    """Draws samples of a generative model, as images, at each evaluation."""

    draw: Callable[[State], None]
    evaluation: Evaluation

    def due(self, step: int) -> bool:
        """Whenever the run is evaluated."""
        return self.evaluation.due(step)

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Draws the samples of this state."""
        self.draw(state)


@dataclass(frozen=True)
class Checkpointing:
    """Checkpoints: every `every` steps (0: only at the `last`), at a stop, and of the best state.

    The log is flushed to disk before a checkpoint is saved.
    """

    outputs: Outputs
    every: int
    last: int
    evaluation: Evaluation
    patience: Patience
    requests: StopRequests

    def due(self, step: int) -> bool:
        """Whether to save the state of this step."""
        return (
            step == self.last
            or is_multiple(step, self.every)
            or self.patience.exhausted()
            or self.requests.at(step) is not None
            or self.outputs.checkpoints.is_best(self.evaluation.numbers_at(step))
        )

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Saves the train state, and the state of early stopping."""
        self.outputs.log.flush()
        host = {"patience": self.patience.saved()}
        self.outputs.checkpoints.save(step, state, host, self.evaluation.numbers_at(step))


@dataclass(frozen=True)
class Pausing:
    """Preemption: ends training where a signal or --until asks for it, once the state is saved."""

    checkpoints: Checkpoints
    last: int
    requests: StopRequests

    def due(self, step: int) -> bool:
        """Where a stop was requested, unless the run is at its last step."""
        return self.requests.at(step) is not None and step < self.last

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Waits for the checkpoint, and raises `PausedError`."""
        self.checkpoints.wait()
        raise PausedError(self.requests.at(step) or 0, step)


def is_multiple(step: int, every: int) -> bool:
    """Whether `step` is a multiple of `every`; never where `every` is 0."""
    return every > 0 and step % every == 0
