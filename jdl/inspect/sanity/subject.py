"""What is checked: a run, its states in a short training on one batch, and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.inspect.learning_rate import hold_schedule, largest_of_schedule
from jdl.inspect.sanity.activations import Activations, activations
from jdl.inspect.sanity.cut_off import CutOff, cut_off, reads
from jdl.keys import stream
from jdl.learners import jit_learner
from jdl.learners.wrapper import inner
from jdl.objectives.adversarial import Adversarial
from jdl.objectives.clustering import DeepClustering
from jdl.objectives.language_modelling import MaskedToken, NextToken
from jdl.objectives.override import innermost
from jdl.objectives.supervised import Supervised
from jdl.paths import by_path
from jdl.run import Run
from jdl.train.epochs import has_epochs
from jdl.train.nan_trace import first_nonfinite
from jdl.types import Array, Batch, Learner, Loader, Metrics, Predicts, State, Variables

EARLY = 10  # steps, at least, to the state on which rows, columns and gradients are checked
SEEN_BATCHES = 20  # of a split, from its first to its last
RL_STEPS = 3  # of reinforcement learning, in which it learns: each may collect episodes
RL_WAIT = 2_000  # steps at most before these, in which a replay buffer is filled
TOLERANCE = 1e-5  # of equal numbers, relative to the largest


@dataclass(frozen=True, eq=False)
class Subject:
    """A run, the first batch of its training, and a training on that batch alone.

    The early state is that of the first update of parameters at or after step `EARLY`: layers that
    begin with zeros are not zero any more, and gradient accumulation has made an update. Where
    there is none, it is the state at the start.
    """

    run: Run
    batch: Batch
    held_at: int | None  # the step of its schedule's largest rate; None without a schedule
    start: State  # before the first step
    early: State
    after: State  # of the first update after the early state
    last: State  # at the end
    losses: list[float]  # of each step, in training
    steps: int  # that were asked for
    trouble: str | None = None  # what was not finite

    @property
    def learner(self) -> Learner:
        """The run's learner."""
        return self.run.learner

    @cached_property
    def objective(self) -> Any:
        """The objective within its wrappers."""
        return innermost(self.learner.objective, self.variables(self.start))[0]

    @property
    def has_rows(self) -> bool:
        """Whether the loss is one of rows of data, and not of an environment."""
        return has_epochs(self.run.train)

    @property
    def learning_starts(self) -> int:
        """The number of steps in which DQN or SAC only fills the replay buffer; 0 of others."""
        return getattr(inner(self.learner), "learning_starts", 0)

    def variables(self, state: State) -> Variables:
        """The variables to evaluate with."""
        return self.learner.eval_variables(state)

    def evaluate(self, batch: Batch, state: State | None = None, seed: int = 0) -> Evaluated:
        """The loss in evaluation, and the model's outputs, at the early state by default."""
        if state is None:
            state = self.early
        loss, metrics, outputs = self._evaluate(self.variables(state), batch, np.uint32(seed))
        outputs = {k: v for k, v in by_name(outputs).items() if v.shape[:1] == (rows_of(batch),)}
        return Evaluated(float(loss.total), float(loss.count), metrics, outputs)

    @cached_property
    def evaluated(self) -> Evaluated:
        """The evaluation of the batch itself, at the early state."""
        return self.evaluate(self.batch)

    @cached_property
    def evaluated_again(self) -> Evaluated:
        """The same with another random key."""
        return self.evaluate(self.batch, seed=1)

    @cached_property
    def evaluated_at_start(self) -> Evaluated:
        """The evaluation of the batch before the first step."""
        return self.evaluate(self.batch, self.start)

    def outputs(self, variables: Variables, batch: Batch) -> Any:
        """The model's outputs in evaluation, or the predictions; nothing where there are none."""
        objective: Any = self.learner.objective
        inner, inner_variables = innermost(objective, variables)
        raw = isinstance(inner, Supervised) and type(inner).predict is Supervised.predict
        if raw or isinstance(inner, NextToken | MaskedToken):
            return inner.outputs(inner_variables, batch, jax.random.key(0), False)[0]
        return objective.predict(variables, batch) if isinstance(objective, Predicts) else {}

    @property
    def is_own(self) -> bool:
        """Whether the objective is one of jdl's, which draws and leaves out what it should."""
        return type(self.objective).__module__.startswith("jdl.")

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Real rows from all over the training data."""
        return rows_of_split(self.run.train)

    @cached_property
    def gradients(self) -> dict[str, Array]:
        """The gradients at the early state of the mean loss of the batch in training, by path."""
        return self._gradients(self.early)

    @cached_property
    def gradients_at_start(self) -> dict[str, Array]:
        """The gradients before the first step."""
        return self._gradients(self.start)

    @cached_property
    def _gradients(self) -> Callable[[State], dict[str, Array]]:

        @jax.jit
        def compute(state: State, batch: Batch) -> Any:
            found = self.learner.grads(state, batch, stream(state.key, "loss", state.step))
            count = jnp.maximum(found.output.loss.count, 1)
            return jax.tree.map(lambda g: (g / count).astype(g.dtype), found.grads)

        return lambda state: by_path(compute(state, self.batch))

    @cached_property
    def without_gradient(self) -> list[str]:
        """The paths of the parameters that get no gradient, at the start and soon after."""
        if not self.learner.has_grads:
            return []
        found = [self.gradients_at_start, self.gradients]
        return [path for path in found[0] if not any(np.any(np.asarray(g[path])) for g in found)]

    @cached_property
    def cut_off(self) -> CutOff:
        """Why these parameters get no gradient; not known of losses of several players."""
        if isinstance(self.objective, Adversarial | DeepClustering):
            return CutOff()

        def loss(params: Any) -> Array:
            variables, key = {"params": params, **self.early.model_state}, jax.random.key(0)
            return self.learner.objective.loss(variables, self.batch, key, True).loss.total

        return cut_off(loss, self.early.params, self.without_gradient)

    @cached_property
    def reads(self) -> dict[str, bool]:
        """For each column, whether the evaluation reads it, whatever its numbers."""
        variables = self.variables(self.early)
        return reads(lambda batch: self._evaluate(variables, batch, np.uint32(0)), self.batch)

    @cached_property
    def activations(self) -> Activations:
        """The activations of the model at the early state, or where it shows none, of the loss."""
        # Of the model alone, as the maxima within a loss are no ReLUs of the model.
        run = self.outputs if self.evaluated.outputs else self._loss
        return activations(run, self.variables(self.early), self.batch)

    def _loss(self, variables: Variables, batch: Batch) -> Array:
        key = jax.random.key(0)
        return self.learner.objective.loss(variables, batch, key, False).loss.total

    @cached_property
    def _evaluate(self) -> Callable[..., Any]:
        def run(variables: Variables, batch: Batch, seed: Array) -> Any:
            key = jax.random.key(seed)
            output = self.learner.objective.loss(variables, batch, key, False)
            return output.loss, output.metrics, self.outputs(variables, batch)

        return jax.jit(run)

    def batches(self, count: int) -> Iterator[Batch]:
        """The first batches of the training."""
        make = jax.jit(self.run.train.batch)
        for i, raw in enumerate(islice(self.run.train.read(), count)):
            yield make(raw, np.int32(i))

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """The learner's step. A schedule rises to its largest rate within `EARLY` steps.

        There it stays: of a long warmup, or a decay, the first steps alone would say little.
        """
        if self.held_at is not None:
            rising = min(int(state.step) + 1, EARLY)
            state = hold_schedule(state, self.held_at * rising // EARLY)
        return self._step(state, batch)

    @cached_property
    def _step(self) -> Callable[[State, Batch], tuple[State, Metrics]]:
        return jax.jit(self.learner.step)  # it keeps the old state


@dataclass(frozen=True)
class Evaluated:
    """A loss in evaluation as total and count, metrics, and the outputs that have rows."""

    total: float
    count: float
    metrics: Metrics
    outputs: dict[str, np.ndarray]

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.total / self.count if self.count else float("nan")


def train_on_one_batch(run: Run, steps: int) -> Subject:
    """Trains on the first batch alone; nothing is written, and the run stays as it was."""
    learner, batch = run.learner, run.train[0]
    start = jit_learner(learner).init(jax.random.key(run.config.seed), batch)
    held_at = largest_of_schedule(learner, start, batch, run.config.steps)
    losses: list[float] = []
    subject = Subject(run, batch, held_at, start, start, start, start, losses, steps)
    updates: list[State] = []  # the early state, and the next that differs
    last, trouble = start, None
    waits = subject.learning_starts
    for n in range(1, (steps if subject.has_rows else min(waits, RL_WAIT) + RL_STEPS) + 1):
        state, metrics = subject.step(last, batch)
        if "loss" in metrics and n > waits:
            losses.append(float(np.mean(metrics["loss"].value())))
        if losses and not np.isfinite(losses[-1]):
            trouble = f"the loss of step {n} is {losses[-1]}"
            break
        if (
            n >= max(EARLY, waits)
            and len(updates) < 2
            and not same_params([start, *updates][-1], state)
        ):
            updates.append(state)
        last = state
    if wrong := first_nonfinite(last.params):
        trouble = f"in the end, the parameter {wrong} finite"
    early, after = [*updates, last, last][:2] if updates else (start, start)
    return replace(subject, early=early, after=after, last=last, trouble=trouble)


def same_params(a: State, b: State) -> bool:
    """Whether all parameters of two states are equal."""
    pairs = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def by_name(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree as NumPy arrays, by their paths."""
    return {
        path: np.asarray(leaf)
        for path, leaf in by_path(tree).items()
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def rows_of_split(data: Loader, first: int = 0) -> dict[str, np.ndarray]:
    """Real rows of batches from all over a split, from batch `first` on."""
    places = np.unique(np.linspace(first, len(data) - 1, SEEN_BATCHES).astype(int))
    batches = [data[int(i)] for i in places]
    masks = [np.asarray(b.get("mask", np.ones(rows_of(b)))) > 0 for b in batches]
    return {
        name: np.concatenate([np.asarray(b[name])[m] for b, m in zip(batches, masks, strict=True)])
        for name in batches[0]
    }


def rows_of(batch: Mapping[str, Any]) -> int:
    """The rows of a batch, padding included."""
    return len(next(iter(batch.values())))


def differ(a: np.ndarray | float, b: np.ndarray | float) -> bool:
    """Whether two arrays differ by more than rounding; NaN equals NaN."""
    x, y = (np.asarray(value, np.float64) for value in (a, b))
    scale = np.nanmax(np.abs(x), initial=0)
    return not np.allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True)


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray], part: Any = ...) -> list[str]:
    """The names of the arrays that differ in this part."""
    return [name for name in a if differ(a[name][part], b[name][part])]
