"""Steps left out: a learner that keeps its state where a step goes bad, instead of stopping there."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from jdl.types import Array, Halves, Learner, Mean, Metrics, State, Sums

WATCHED = (
    "loss",
    "grad_norm",
    "param_norm",
)  # means: a step in which one of them is not finite has gone bad


def skip_nonfinite(learner: Learner) -> Learner:
    """The same learner, but a step whose loss, gradients or new parameters are not all finite changes nothing.

    It counts as a step, so that the next has another batch. The metric `skipped` is 1 there, and 0 elsewhere.
    """

    def kept(state: State, moved: tuple[State, Metrics]) -> tuple[State, Metrics]:
        new, metrics = moved
        finite = [jnp.isfinite(mean.total) for mean in watched(metrics).values()]
        good = reduce(jnp.logical_and, finite, jnp.asarray(True))
        return chosen(good, new, state), {
            **metrics,
            "skipped": Mean(1.0 - good.astype(jnp.float32), jnp.ones(())),
        }

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        return kept(state, learner.step(state, batch))

    def halved(halves: Halves) -> Halves:
        def update(state: State, sums: Sums) -> tuple[State, Metrics]:
            return kept(state, halves.update(state, sums))

        return replace(halves, update=update)

    return replace(learner, step=step, halves=halved(learner.halves) if learner.halves else None)


def chosen(good: Array, new: State, old: State) -> State:
    """What `new` has learned where that is `good`, else what `old` has; the step is that of `new`."""
    learned = [(state.params, state.model_state, state.opt_state) for state in (new, old)]
    params, model_state, opt_state = jax.tree.map(lambda a, b: jnp.where(good, a, b), *learned)
    return replace(new, params=params, model_state=model_state, opt_state=opt_state)


def watched(metrics: Metrics) -> dict[str, Mean]:
    """Those of a step's metrics that must be finite, by name."""
    return {name: mean for name in WATCHED if isinstance(mean := metrics.get(name), Mean)}
