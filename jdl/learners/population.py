"""Populations: the same training for many seeds, in one program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.metrics import Members
from jdl.types import Batch, Error, Key, Learner, Metrics, Objective, LossOutput, State, Variables


def population(learner: Learner, seeds: Sequence[int]) -> Learner:
    """Trains the learner once for each of `seeds`, all by the same batches: params, carry and opt have a row for each.

    A member does what the learner does alone in a run of its seed and of these batches, up to rounding. Metrics of
    training are those of all members together; in evaluation each is "name/mean", "name/min" and "name/max" over the
    members, and the loss their mean: `Run(best="max return/mean")`. A population predicts and draws nothing.
    """
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise Error(
            f"A population's seeds are different whole numbers of 0 or more, at least one; given: {seeds}."
        )
    numbers = np.asarray(seeds, np.uint32)

    def init(key: Key, batch: Batch) -> State:
        states = jax.vmap(learner.init, (0, None))(jax.vmap(jax.random.key)(numbers), batch)
        return replace(states, step=jnp.zeros((), jnp.int32), key=key)

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        def one(
            params: Any, model_state: Variables, opt_state: Any, key: Key
        ) -> tuple[State, Metrics]:
            moved, metrics = learner.step(
                State(state.step, params, model_state, opt_state, key), batch
            )
            return replace(moved, step=state.step, key=state.key), metrics

        out = (State(None, 0, 0, 0, None), 0)  # type: ignore[arg-type]
        keys = jax.vmap(jax.random.key)(numbers)
        moved, metrics = jax.vmap(one, out_axes=out)(
            state.params, state.model_state, state.opt_state, keys
        )
        return replace(moved, step=state.step + 1), {
            name: together(each) for name, each in parted(metrics).items()
        }

    def parted(metrics: Metrics) -> dict[str, list[Any]]:
        """Each metric (members, ...) as a list of one for each member."""
        return {
            name: [jax.tree.map(lambda leaf, n=n: leaf[n], metric) for n in range(len(seeds))]
            for name, metric in metrics.items()
        }

    def together(metrics: list[Any]) -> Any:
        return reduce(add, metrics)

    def view(state: State) -> Variables:
        def one(params: Any, model_state: Variables, opt_state: Any) -> Variables:
            return learner.view(State(state.step, params, model_state, opt_state, state.key))

        return jax.vmap(one)(state.params, state.model_state, state.opt_state)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        out = jax.vmap(lambda one: learner.objective.loss(one, batch, key, train))(variables)
        found = parted({"loss": out.loss, **out.metrics})
        metrics: Metrics = {
            name: Members(tuple(each)) for name, each in found.items() if name != "loss"
        }
        return LossOutput(together(found["loss"]), metrics, out.model_state)

    def start(key: Key, batch: Batch) -> Variables:
        return jax.vmap(learner.objective.init, (0, None))(jax.vmap(jax.random.key)(numbers), batch)

    return Learner(init, step, Objective(start, loss, check=learner.objective.check), view)


def member(variables: Variables, n: int) -> Any:
    """What member n of a population has of these variables."""
    return jax.tree.map(lambda leaf: leaf[n], variables)
