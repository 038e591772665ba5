"""Skipping non-finite steps: after a NaN or an overflow the state stays as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import jax
import jax.numpy as jnp

from jdl.learners.wrapper import Wrapper
from jdl.types import Array, Learner, Mean, Metrics, State

CHECKED_METRICS = ("loss", "grad_norm", "param_norm")  # if one is not finite, the step is skipped


def skip_nonfinite(learner: Learner) -> SkipNonfinite:
    """Skips a step whose loss, gradient or new parameters are NaN or infinite.

    The state stays as it was, except for the step count, so that the next step has another batch.
    The metric `skipped` is 1 for such a step, otherwise 0. Like `optax.apply_if_finite`, but also
    for the model state and the states of wrappers.
    """
    return SkipNonfinite(learner)


@dataclass(frozen=True, eq=False)
class SkipNonfinite(Wrapper):
    """Skips non-finite steps; see `skip_nonfinite`."""

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Keeps the old state if the new one is not finite."""
        finite = [jnp.isfinite(mean.total) for mean in checked_metrics(metrics).values()]
        good = reduce(jnp.logical_and, finite, jnp.asarray(True))
        skipped = Mean(1.0 - good.astype(jnp.float32), jnp.ones(()))
        return select_state(good, new, old), {**metrics, "skipped": skipped}


def select_state(good: Array, new: State, old: State) -> State:
    """The new state if `good`, otherwise the old one with the new step count."""
    learned = [(s.params, s.model_state, s.opt_state, s.extra) for s in (new, old)]
    params, model_state, opt_state, extra = jax.tree.map(
        lambda a, b: jnp.where(good, a, b), *learned
    )
    return replace(new, params=params, model_state=model_state, opt_state=opt_state, extra=extra)


def checked_metrics(metrics: Metrics) -> dict[str, Mean]:
    """The metrics of a step that must be finite, by name."""
    return {name: mean for name in CHECKED_METRICS if isinstance(mean := metrics.get(name), Mean)}
