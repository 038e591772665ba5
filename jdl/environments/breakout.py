"""MinAtar's Breakout: the Atari game in small, in a grid of 10 by 10 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.environments.actions import Discrete
from jdl.environments.environment import Environment
from jdl.types import Array, Key

SIZE = 10  # rows and columns
WALL = slice(1, 4)  # the rows of bricks


def breakout(sticky_actions: float = 0.1, max_episode_steps: int = 1_000) -> Environment:
    """Breakout of MinAtar (Young and Tian, 2019): a paddle bounces a ball that breaks bricks.

    A brick is worth a reward of 1; when none is left, there are three new rows. The episode ends
    when the paddle misses the ball. The actions are to stay (0), to move left (1) or right (2);
    with the probability `sticky_actions` the action before is repeated instead. Observed is an
    image (10, 10, 4) of zeros and ones: the paddle, the ball, the ball's place before, the bricks.
    """
    game = Breakout(sticky_actions)
    return Environment(game.reset, game.step, game.observe, Discrete(3), max_episode_steps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BreakoutState:
    """An episode's state. Places and velocities are (row, column)."""

    ball: Array  # (2,)
    before: Array  # (2,): the ball's place before the step
    velocity: Array  # (2,): -1 or 1 each, as the ball moves along diagonals
    paddle: Array  # its column, in the last row
    bricks: Array  # (10, 10) of bool
    in_brick: Array  # whether the ball was at a brick in this step: it breaks no two in a row
    action: Array  # the last one


@dataclass(frozen=True)
class Breakout:
    """The game's three functions; see `breakout`."""

    sticky_actions: float

    def reset(self, key: Key) -> BreakoutState:
        """The ball begins in the lowest row of bricks, at a side wall, and moves inwards."""
        right = jax.random.bernoulli(key).astype(jnp.int32)
        ball = jnp.stack([jnp.asarray(3, jnp.int32), right * (SIZE - 1)])
        return BreakoutState(
            ball=ball,
            before=ball,
            velocity=jnp.stack([jnp.asarray(1, jnp.int32), 1 - 2 * right]),
            paddle=jnp.asarray(4, jnp.int32),
            bricks=full_wall(),
            in_brick=jnp.zeros((), bool),
            action=jnp.zeros((), jnp.int32),
        )

    def step(
        self, state: BreakoutState, action: Array, key: Key
    ) -> tuple[BreakoutState, Array, Array]:
        """Moves the paddle, then the ball, which one thing at most reflects besides a side wall."""
        sticks = jax.random.bernoulli(key, self.sticky_actions)
        action = jnp.where(sticks, state.action, action.astype(jnp.int32))
        move = (action == 2).astype(jnp.int32) - (action == 1).astype(jnp.int32)
        paddle = (state.paddle + move).clip(0, SIZE - 1)

        place = state.ball + state.velocity
        row, column = place.clip(0, SIZE - 1)
        beyond = place != jnp.stack([row, column])  # the ceiling, a side wall
        at_brick = ~beyond[0] & state.bricks[row, column]
        breaks = at_brick & ~state.in_brick
        at_bottom = ~beyond[0] & ~at_brick & (row == SIZE - 1)
        on_paddle = at_bottom & (state.ball[1] == paddle)
        on_edge = at_bottom & ~on_paddle & (column == paddle)
        bounces = breaks | on_paddle | on_edge

        bricks = state.bricks.at[row, column].set(state.bricks[row, column] & ~breaks)
        turns = jnp.stack([beyond[0] | bounces, beyond[1] ^ on_edge])
        new = BreakoutState(
            ball=jnp.stack([jnp.where(bounces, state.ball[0], row), column]),
            before=state.ball,
            velocity=jnp.where(turns, -state.velocity, state.velocity),
            paddle=paddle,
            bricks=jnp.where(at_bottom & ~bricks.any(), full_wall(), bricks),
            in_brick=at_brick,
            action=action,
        )
        return new, breaks.astype(jnp.float32), at_bottom & ~bounces

    def observe(self, state: BreakoutState) -> Array:
        """An image (10, 10, 4): the paddle, the ball, the ball's place before, the bricks."""
        bottom = jnp.asarray(SIZE - 1, jnp.int32)
        places = [jnp.stack([bottom, state.paddle]), state.ball, state.before]
        image = jnp.zeros((SIZE, SIZE, 4)).at[..., 3].set(state.bricks.astype(jnp.float32))
        for channel, place in enumerate(places):
            image = image.at[place[0], place[1], channel].set(1.0)
        return image


def full_wall() -> Array:
    """The three rows of bricks, (10, 10) of bool."""
    return jnp.zeros((SIZE, SIZE), bool).at[WALL].set(True)
