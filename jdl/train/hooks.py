"""The hooks of the training loop: evaluation, early stopping, pictures, users' hooks, checkpoints.

The loop calls those that are due at a step in this order, so that what a checkpoint holds has been
evaluated and logged before. Each reads the state and never writes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jdl.learners import finite_metrics
from jdl.metrics import scalars
from jdl.store.checkpoints import Checkpoints, is_better
from jdl.train.outputs import Outputs
from jdl.train.preemption import PausedError, StopRequests
from jdl.types import Hook, Metrics, Run, State

TRAINING_PER_EVALUATION = 10  # what training between two evaluations costs, in evaluations
FORWARDS_PER_STEP = 3  # what a step costs for each of its rows, in forward passes


@dataclass
class TrainingLog:
    """Logs the metrics of training: those of every step in the step trace, some in the log.

    `on_nonfinite` is called with the step, the name and the value of a loss, gradient norm or
    parameter norm that is not finite.
    """

    outputs: Outputs
    every: int
    on_nonfinite: Callable[[int, str, float], None]
    loss: float | None = None  # as it was logged last

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Fetches and logs the metrics of a step."""
        totals = {name: float(np.asarray(m.total)) for name, m in finite_metrics(metrics).items()}
        self.outputs.log.trace(totals)
        nonfinite = [name for name, total in totals.items() if not math.isfinite(total)]
        if nonfinite or step % self.every == 0:
            numbers = scalars(jax.tree.map(np.asarray, metrics))
            self.outputs.log.write(step, "train", numbers)
            self.loss = numbers.get("loss")
            if nonfinite:
                self.on_nonfinite(step, nonfinite[0], numbers[nonfinite[0]])
        self.outputs.display.step(step, self.loss)


def default_eval_every(run: Run) -> int:
    """Steps between evaluations by default: a twentieth of the run, or more where that is costly.

    Evaluation should not take more than a tenth of the time of training. Both are estimated by the
    number of rows, so that equal runs are evaluated at equal steps: a row that is evaluated costs a
    forward pass, and one that is trained on costs three. Where a step is no sum over the rows of
    its batch (reinforcement learning), rows tell nothing, and it is a twentieth.
    """
    data = run.test if run.valid is None else run.valid
    forwards = 0 if data is None or not run.learner.has_grads else data.rows
    step = FORWARDS_PER_STEP * run.train.size
    affordable = math.ceil(TRAINING_PER_EVALUATION * forwards / step)
    return max(1, run.config.steps // 20, affordable)


def default_save_every(steps: int) -> int:
    """Steps between checkpoints by default: a twentieth of the run.

    Saving goes on in a thread beside the training, and what it costs cannot be told from sizes.
    """
    return max(1, steps // 20)


@dataclass
class Evaluation:
    """Evaluation every so many steps (0: only at the `last`).

    `evaluators` give the metrics of a state, by split; the first split is evaluated during
    training: the validation set, or the test set where there is none.
    """

    evaluators: Mapping[str, Callable[[State], Metrics]]
    every: int
    last: int
    outputs: Outputs
    metrics: dict[str, Metrics] = field(default_factory=dict)  # the newest, by split
    steps: dict[str, int] = field(default_factory=dict)  # at which they were computed

    def due(self, step: int) -> bool:
        """Every so many steps and at the last one, where there is anything to evaluate on."""
        return bool(self.evaluators) and (step == self.last or is_multiple(step, self.every))

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Evaluates on the first split."""
        self.evaluate(step, state)

    def evaluate(self, step: int, state: State, split: str = "") -> dict[str, float]:
        """The numbers of a split at this state, logged; computed once a step."""
        split = split or next(iter(self.evaluators))
        if self.steps.get(split) != step:
            self.metrics[split], self.steps[split] = self.evaluators[split](state), step
            numbers = scalars(self.metrics[split])
            self.outputs.log.write(step, split, numbers)
            shown = [f"{name} {v:.4f}" for name, v in numbers.items() if "/" not in name]
            self.outputs.display.note(f"Step {step:>7,}  {split:<5}  {'  '.join(shown)}")
        return scalars(self.metrics[split])

    def evaluate_all(self, state: State) -> dict[str, Metrics]:
        """The metrics of every split at the end of a training."""
        for split in self.evaluators:
            self.evaluate(int(state.step), state, split)
        self.outputs.log.flush()
        return {**self.metrics}

    def numbers_at(self, step: int) -> dict[str, float]:
        """The numbers of the first split, if it was evaluated at this step; else none."""
        split = next(iter(self.evaluators), "")
        return scalars(self.metrics[split]) if self.steps.get(split) == step else {}


@dataclass
class Patience:
    """Early stopping's memory: the best value, and bad checks since. A part of checkpoints."""

    criterion: str  # "max NAME" or "min NAME"
    limit: int  # bad checks in a row after which training stops; 0 for never
    best: float | None = None
    bad_checks: int = 0

    def check(self, numbers: dict[str, float]) -> None:
        """Counts one more check, with these metrics."""
        mode, metric = self.criterion.split()
        if is_better(mode, numbers[metric], self.best):
            self.best, self.bad_checks = numbers[metric], 0
        else:
            self.bad_checks += 1

    def exhausted(self) -> bool:
        """Whether training is to stop."""
        return 0 < self.limit <= self.bad_checks

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of it, as JSON."""
        return {"best": self.best, "bad_checks": self.bad_checks}


@dataclass(frozen=True)
class EarlyStopping:
    """Early stopping: checks every so many steps whether the metric is better than ever before.

    Its period belongs to the config, and its best value is over its own checks: it decides where a
    training ends, which must not depend on how often somebody evaluates.
    """

    patience: Patience
    every: int
    evaluation: Evaluation

    def due(self, step: int) -> bool:
        """Every so many steps, where training is to stop early at all."""
        return self.patience.limit > 0 and is_multiple(step, self.every)

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Makes one check."""
        self.patience.check(self.evaluation.evaluate(step, state))
        if self.patience.exhausted():
            checks = f"{self.patience.bad_checks} checks without a gain"
            display = self.evaluation.outputs.display
            display.note(f"Step {step:,}: stopped early, after {checks}")


@dataclass(frozen=True)
class SamplePictures:
    """Draws samples of a generative model at each evaluation."""

    draw: Callable[[State], None]
    evaluation: Evaluation

    def due(self, step: int) -> bool:
        """Whenever the run is evaluated."""
        return self.evaluation.due(step)

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Draws."""
        self.draw(state)


@dataclass(frozen=True)
class UserHook:
    """A hook of `Run.hooks`: (every, function)."""

    hook: Hook

    def due(self, step: int) -> bool:
        """Every so many steps."""
        return is_multiple(step, self.hook[0])

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Calls the function, with dicts of its own: to change them changes nothing."""
        state, metrics = jax.tree.map(lambda leaf: leaf, (state, metrics))
        self.hook[1](step, state, metrics)


@dataclass(frozen=True)
class Checkpointing:
    """Checkpoints every so many steps (0: only at the `last`), when training stops, of the best.

    Everything that was logged so far is on the disk before a checkpoint begins.
    """

    outputs: Outputs
    every: int
    last: int
    evaluation: Evaluation
    patience: Patience
    requests: StopRequests

    def due(self, step: int) -> bool:
        """Whether the state of this step is to be saved."""
        return (
            step == self.last
            or is_multiple(step, self.every)
            or self.patience.exhausted()
            or self.requests.at(step) is not None
            or self.outputs.checkpoints.is_best(self.evaluation.numbers_at(step))
        )

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Saves the state, and what early stopping remembers."""
        self.outputs.log.flush()
        host = {"patience": self.patience.saved()}
        self.outputs.checkpoints.save(step, state, host, self.evaluation.numbers_at(step))


@dataclass(frozen=True)
class Pausing:
    """Ends the process where a signal or --until asks for it, once the state is saved."""

    checkpoints: Checkpoints
    last: int
    requests: StopRequests

    def due(self, step: int) -> bool:
        """Where it was asked for, unless the run is at its end."""
        return self.requests.at(step) is not None and step < self.last

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Raises `PausedError`."""
        self.checkpoints.wait()
        raise PausedError(self.requests.at(step) or 0, step)


def is_multiple(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens at this one; 0 for never."""
    return every > 0 and step % every == 0
