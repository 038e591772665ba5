"""Skipping non-finite steps: a NaN or an overflow leaves the state as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import jax
import jax.numpy as jnp

from jdl.learners.wrapper import Wrapper
from jdl.types import Array, Learner, Mean, Metrics, State

FINITE_METRICS = (
    "loss",
    "grad_norm",
    "param_norm",
)  # a step is bad where one of them is not finite


def skip_nonfinite(learner: Learner) -> SkipNonfinite:
    """The same learner, but a step with a NaN or infinite loss or gradient changes nothing.

    New parameters count too. It is a step nevertheless, so that the next one has another batch. The
    metric `skipped` is 1 there, and 0 elsewhere. (As `optax.apply_if_finite`, for the model state
    and what wrappers keep too.)
    """
    return SkipNonfinite(learner)


@dataclass(frozen=True, eq=False)
class SkipNonfinite(Wrapper):
    """Skips non-finite steps; see `skip_nonfinite`."""

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Takes the old state again where the new one is bad."""
        finite = [jnp.isfinite(mean.total) for mean in finite_metrics(metrics).values()]
        good = reduce(jnp.logical_and, finite, jnp.asarray(True))
        skipped = Mean(1.0 - good.astype(jnp.float32), jnp.ones(()))
        return select_state(good, new, old), {**metrics, "skipped": skipped}


def select_state(good: Array, new: State, old: State) -> State:
    """The new state where `good`, else the old one with the new step count."""
    learned = [(s.params, s.model_state, s.opt_state, s.extra) for s in (new, old)]
    params, model_state, opt_state, extra = jax.tree.map(
        lambda a, b: jnp.where(good, a, b), *learned
    )
    return replace(new, params=params, model_state=model_state, opt_state=opt_state, extra=extra)


def finite_metrics(metrics: Metrics) -> dict[str, Mean]:
    """The metrics of a step that must be finite, by name."""
    return {name: mean for name in FINITE_METRICS if isinstance(mean := metrics.get(name), Mean)}
