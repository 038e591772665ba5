"""Catch: a ball falls through a grid of pixels, and a paddle is to be under it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdl.environments.actions import Discrete
from jdl.environments.environment import Environment
from jdl.types import Array, Key


def catch(rows: int = 10, columns: int = 5) -> Environment:
    """Catch from pixels (Mnih et al., 2014), as in bsuite (Osband et al., 2020).

    The ball begins in a random column of the top row and falls by a row in each step; the paddle
    begins in the middle of the bottom row and moves left (0), stays (1) or moves right (2). When
    the ball arrives at the bottom row, the episode ends, with the reward 1 if the paddle is there
    and -1 if not; the other rewards are 0. Observed is an image (rows, columns, 1) of zeros, with
    ones where ball and paddle are. A random policy has a mean return of -0.6 in the 10 by 5 grid.
    """

    def reset(key: Key) -> dict[str, Array]:
        return {
            "ball_row": jnp.zeros((), jnp.int32),
            "ball_column": jax.random.randint(key, (), 0, columns),
            "paddle": jnp.asarray(columns // 2, jnp.int32),
        }

    def step(
        state: dict[str, Array], action: Array, key: Key
    ) -> tuple[dict[str, Array], Array, Array]:
        ball_row = state["ball_row"] + 1
        paddle = (state["paddle"] + action.astype(jnp.int32) - 1).clip(0, columns - 1)
        terminated = ball_row == rows - 1
        outcome = jnp.where(paddle == state["ball_column"], 1.0, -1.0)
        state = {**state, "ball_row": ball_row, "paddle": paddle}
        return state, jnp.where(terminated, outcome, 0.0), terminated

    def observe(state: dict[str, Array]) -> Array:
        image = jnp.zeros((rows, columns, 1))
        image = image.at[state["ball_row"], state["ball_column"], 0].set(1.0)
        return image.at[rows - 1, state["paddle"], 0].set(1.0)

    return Environment(reset, step, observe, Discrete(3), rows - 1)
