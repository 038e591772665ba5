"""Populations: the same training for many seeds, in one program (an ensemble by `jax.vmap`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.metrics import PerMember
from jdl.types import (
    Batch,
    Bounds,
    Error,
    Key,
    Learner,
    LossOutput,
    Metrics,
    Objective,
    State,
    Variables,
)


def population(learner: Learner, seeds: Sequence[int]) -> Population:
    """Trains the learner once for each seed, vectorized, all on the same batches (an ensemble).

    Parameters, model state, optimizer state and extras have a leading axis for the members. Up to
    rounding, a member trains like the learner alone with that seed on these batches. Training
    metrics are merged over all members; in evaluation each metric becomes "name/mean", "name/iqm"
    (interquartile mean), "name/min" and "name/max" over the members, and the loss is their mean:
    `Run(best="max return/mean")`. A population can neither predict nor generate, but a `member` of
    it can.
    """
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise Error(
            "A population needs at least one seed, and its seeds must be different whole numbers "
            f"from 0 to 2^32 - 1, got {seeds}."
        )
    return Population(learner, seeds)


@dataclass(frozen=True, eq=False)
class Population(Learner):
    """A population of learners; see `population`."""

    learner: Learner
    seeds: tuple[int, ...]
    has_grads = False

    @property
    def objective(self) -> Objective:  # type: ignore[override]
        """The mean loss of the members, and their metrics as `PerMember`."""
        return PopulationObjective(self.learner.objective, self.seeds)

    def init(self, key: Key, batch: Batch) -> State:
        """Each member's state from its own seed; the step count and the key are shared."""
        states = jax.vmap(self.learner.init, (0, None))(_keys(self.seeds), batch)
        return replace(states, step=jnp.zeros((), jnp.int32), key=key)

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One step of every member."""

        def one(member: State) -> tuple[State, Metrics]:
            new, metrics = self.learner.step(member, batch)
            return replace(new, step=state.step, key=state.key), metrics

        members = replace(state, key=_keys(self.seeds))
        new, metrics = jax.vmap(one, (_axes(key=0),), (_axes(key=None), 0))(members)
        metrics = {name: reduce(add, each) for name, each in _unstack(metrics, self.seeds).items()}
        return replace(new, step=state.step + 1), metrics

    def eval_variables(self, state: State) -> Variables:
        """The members' variables, with a leading axis for the members."""
        return jax.vmap(self.learner.eval_variables, (_axes(key=None),))(state)


@dataclass(frozen=True, eq=False)
class PopulationObjective(Objective):
    """The objective of each member, for evaluation."""

    objective: Objective
    seeds: tuple[int, ...]

    @property
    def stored_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the members' objective."""
        return self.objective.stored_columns

    def init(self, key: Key, batch: Batch) -> Variables:
        """Each member's variables from its own seed."""
        return jax.vmap(self.objective.init, (0, None))(_keys(self.seeds), batch)

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean loss of the members; their metrics are `PerMember`."""
        output = jax.vmap(lambda one: self.objective.loss(one, batch, key, train))(variables)
        losses = _unstack({"loss": output.loss}, self.seeds)["loss"]
        metrics: Metrics = {
            name: PerMember(tuple(each))
            for name, each in _unstack(output.metrics, self.seeds).items()
        }
        return LossOutput(reduce(add, losses), metrics, output.model_state)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the members' objective does."""
        self.objective.check(spec, bounds)


def member(variables: Variables, n: int) -> Any:
    """The variables of member n of a population."""
    return jax.tree.map(lambda leaf: leaf[n], variables)


def _keys(seeds: tuple[int, ...]) -> Key:
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


def _axes(key: int | None) -> Any:
    """The axes of a state for `jax.vmap`: the leading one, but for the shared step (and key)."""
    return State(None, 0, 0, 0, key, 0)  # type: ignore[arg-type]


def _unstack(metrics: Metrics, seeds: tuple[int, ...]) -> dict[str, list[Any]]:
    """Each metric (members, ...) as a list of one for each member."""
    return {
        name: [jax.tree.map(lambda leaf, n=n: leaf[n], metric) for n in range(len(seeds))]
        for name, metric in metrics.items()
    }
