"""Several training steps in one call of the device, for steps that take less time than a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.learners.shared_programs import jit
from jdl.types import Array, Error, Learner, Metrics, State

MOST = 128  # steps a call: the rows of the stacked metrics, whatever --steps-per-call is


@dataclass(frozen=True)
class SeveralSteps:
    """Up to `most` training steps in one call; see `several_steps`."""

    most: int
    program: Callable[[State, Any, np.int32], tuple[State, Metrics]]

    def __call__(self, state: State, raw: Any, number: int) -> tuple[State, Metrics]:
        """The state after `number` steps, and their metrics, stacked: those of step i in row i.

        `raw` is the raw data of all their batches. Rows from `number` on are zeros.
        """
        return self.program(state, raw, np.int32(number))


def several_steps(learner: Learner, most: int, one_device: bool = True) -> SeveralSteps:
    """Up to `most` steps of a learner of `with_data` in one call: a loop on the device.

    The number of steps is an argument of the program and nothing else of it depends on `most`, so
    the bits are the same whatever it is, and wherever a call ends. They may differ in rounding from
    those of single steps: XLA compiles the body of a loop otherwise. The old state is donated.
    """
    if most > MOST:
        raise Error(f"--steps-per-call can be {MOST} at most, not {most}.")

    def steps(state: State, raw: Any, number: Array) -> tuple[State, Metrics]:
        shapes = jax.eval_shape(learner.step, state, raw)[1]
        stacked = jax.tree.map(lambda x: jnp.zeros((MOST, *x.shape), x.dtype), shapes)

        def step(i: Array, before: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, stacked = before
            state, metrics = learner.step(state, raw)
            return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), stacked, metrics)

        return jax.lax.fori_loop(0, number, step, (state, stacked))

    compiled = jit if one_device else jax.jit
    return SeveralSteps(most, compiled(steps, donate_argnums=(0,)))
