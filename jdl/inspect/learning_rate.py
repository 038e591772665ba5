"""Learning rate range test, also called learning rate finder (Smith, 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.schedules import WrappedSchedule

from jdl.figures.learning_rate import draw_learning_rate
from jdl.keys import stream
from jdl.learners import jit_learner
from jdl.objectives.adversarial import Adversarial
from jdl.objectives.override import innermost
from jdl.run import Run
from jdl.train.check import check_run
from jdl.train.placement import apply_config
from jdl.types import Array, Batch, Error, Learner, State

STEPS = 100
SMALLEST, LARGEST = 1e-4, 1e3  # factors of the run's own rate
SMOOTHING = 0.9  # of the losses, a running average
DIVERGED = 3.0  # times the first loss, at which the test ends
SAFETY = 10.0  # the suggestion is the factor of the least loss divided by it
SCHEDULE_POINTS = 33  # at which the largest rate of a schedule is looked for
MOST_BATCHES = 64  # that gradient accumulation adds up for one update, for it to be seen
LEAST_STEPS = 20
FIELDS = ("lr", "learning_rate", "peak_lr")  # of a config


@dataclass(frozen=True)
class LearningRates:
    """The losses of a learning rate range test, by the factor of the run's own rate."""

    factors: list[float]
    losses: list[float]
    smooth: list[float]
    suggestion: float  # a factor
    held_at: int | None  # the step at whose rate the schedule was held; None without a schedule
    field: str | None  # the config's field with the rate
    rate: float  # its value; 1 where there is none

    @property
    def suggested_rate(self) -> float:
        """The suggestion as a rate, or as a factor where no field of the config has the rate."""
        return self.suggestion * self.rate

    def __str__(self) -> str:
        best = int(np.argmin(self.smooth))
        held = "" if self.held_at is None else f" (the schedule's at step {self.held_at:,})"
        text = (
            f"The smoothed loss is least, {self.smooth[best]:.4g}, at {self.factors[best]:.2g} "
            f"times the run's own learning rate{held}. Suggested: a tenth of that, "
        )
        if best == len(self.smooth) - 1 and self.factors[best] < LARGEST * (1 - 1e-6):
            text = f"The loss fell until a step was no longer finite: begin below that. {text}"
        elif best == len(self.smooth) - 1:
            text = f"The loss still falls at the largest factor: begin with a larger rate. {text}"
        if self.field is None:
            return f"{text}{self.suggestion:.2g} times the run's own rate."
        flag = self.field.replace("_", "-")
        return f"{text}--{flag} {self.suggested_rate:.1e} in place of {self.rate:.1e}."

    def draw(self, path: Path) -> None:
        """Draws the losses by learning rate as a PNG."""
        name = "times the run's own learning rate" if self.field is None else self.field
        rates = [factor * self.rate for factor in self.factors]
        draw_learning_rate(rates, self.losses, self.smooth, self.suggested_rate, name, path)


def find_learning_rate(run: Run, steps: int = STEPS) -> LearningRates:
    """Learning rate range test, or learning rate finder (Smith, 2017): the rate grows at each step.

    The learner's updates are multiplied by a factor that grows from 1e-4 to 1e3. Of usual
    optimizers the update is proportional to the learning rate, so the factor is one of the rate. A
    schedule is held at its largest rate. The suggestion is a tenth of the factor at which the
    smoothed loss is least. Writes nothing; raises `Error` for learners whose loss says nothing of
    progress (GAN, reinforcement learning).
    """
    if steps < LEAST_STEPS:
        raise Error(f"The range test needs at least {LEAST_STEPS} steps (--check-steps).")
    run = apply_config(run)
    check_run(run)
    learner, data = run.learner, run.train
    state = jit_learner(learner).init(jax.random.key(run.config.seed), data[0])
    objective = innermost(learner.objective, learner.eval_variables(state))[0]
    if not learner.has_grads or isinstance(objective, Adversarial):
        raise Error(
            "The learning rate range test looks for the rate at which the loss falls, and the loss "
            "of a GAN or of reinforcement learning does not measure progress: compare runs instead."
        )
    held_at = largest_of_schedule(learner, state, data[0], run.config.steps)
    step, make = jax.jit(scaled_step, static_argnums=0), jax.jit(data.batch)
    factors, losses, smooth, average = [], [], [], 0.0
    growth = (LARGEST / SMALLEST) ** (1 / max(1, steps - 1))
    for i, raw in enumerate(islice(data.read(), steps)):
        factor = SMALLEST * growth**i
        state = hold_schedule(state, held_at)
        state, loss = step(learner, state, make(raw, np.int32(i)), jnp.float32(factor))
        if not math.isfinite(float(loss)):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * float(loss)
        factors.append(factor)
        losses.append(float(loss))
        smooth.append(average / (1 - SMOOTHING ** (i + 1)))
        if smooth[-1] - min(smooth) > DIVERGED * abs(smooth[0]):
            break
    if not losses:
        raise Error("The first loss is not finite: jdl check SCRIPT says where that comes from.")
    suggestion = factors[int(np.argmin(smooth))] / SAFETY
    values = {name: getattr(run.config, name, None) for name in FIELDS}
    rates = {name: float(v) for name, v in values.items() if isinstance(v, int | float)}
    field = next(iter(rates), None)
    rate = rates[field] if field else 1.0
    return LearningRates(factors, losses, smooth, suggestion, held_at, field, rate)


def scaled_step(learner: Learner, state: State, batch: Batch, factor: Array) -> tuple[State, Array]:
    """A step whose update of the parameters is multiplied by a factor, and the loss before it."""
    new, metrics = learner.step(state, batch)
    params = jax.tree.map(
        lambda old, new: old + (factor * (new - old)).astype(old.dtype), state.params, new.params
    )
    loss: Any = metrics["loss"]
    return replace(new, params=params), loss.value()


def hold_schedule(state: State, count: int | None) -> State:
    """The state with the count of each Optax schedule at this step; as it is for None."""
    if count is None:
        return state

    def hold(part: Any) -> Any:
        return part._replace(count=jnp.full_like(part.count, count)) if _is_schedule(part) else part

    opt_state = jax.tree.map(hold, state.opt_state, is_leaf=_is_schedule)
    return replace(state, opt_state=opt_state)


def has_schedule(state: State) -> bool:
    """Whether the optimizer has an Optax schedule, one of `optax.inject_hyperparams` included."""
    return any(map(_is_schedule, jax.tree.leaves(state.opt_state, is_leaf=_is_schedule)))


def _is_schedule(part: Any) -> bool:
    return isinstance(part, (optax.ScaleByScheduleState, _injected_schedule()))


@cache
def _injected_schedule() -> type:
    """The type of a schedule's state in `optax.inject_hyperparams`: it has no public name."""
    return type(jax.eval_shape(WrappedSchedule(float).init))


def largest_of_schedule(learner: Learner, state: State, batch: Batch, steps: int) -> int | None:
    """The step of the run at which its schedule has the largest rate, by the updates there.

    None without a schedule. Gradient accumulation (`optax.MultiSteps`) gets the batch until it
    makes an update.
    """
    if not (learner.has_grads and has_schedule(state)):
        return None
    gradients = jax.jit(learner.grads)(state, batch, stream(state.key, "loss", state.step))
    apply = jax.jit(learner.apply_gradients)
    size = jax.jit(lambda new: optax.tree.norm(jax.tree.map(jnp.subtract, new, state.params)))
    counts = np.unique(np.linspace(0, max(1, steps) - 1, SCHEDULE_POINTS).astype(int))
    sizes, batches = [], MOST_BATCHES
    for count in counts:
        new, change = hold_schedule(state, int(count)), 0.0
        for n in range(1, batches + 1):
            new, _ = apply(new, gradients)
            if change := float(size(new.params)):
                batches = n
                break
        sizes.append(change)
    return int(counts[int(np.argmax(sizes))])
