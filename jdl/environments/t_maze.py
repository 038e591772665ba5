"""The T-maze: a grid puzzle in which a cue seen at the start tells which arm is right."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jdl.environments.actions import Discrete
from jdl.environments.environment import Environment
from jdl.types import Array, Error, Key

MOVES = np.asarray([(-1, 0), (0, 1), (1, 0), (0, -1)])  # (row, column): up, right, down, left


def t_maze(length: int = 8, arm: int = 2) -> Environment:
    """T-maze (Bakker, 2002), with objects to compare as in MiniGrid's Memory environment.

    A corridor of `length` cells ends in the middle of a crossing corridor, whose two arms have
    `arm` cells each. An object lies left of the corridor, where the agent begins; at the end of one
    arm lies an object of the same kind, at the end of the other one of the other kind. Both the
    kind and the arm are random. The episode ends at the end of an arm, with the reward 1 if its
    object is of the same kind and 0 if not: the mean return is the share of solved episodes. It is
    truncated after 4 * (length + 3 * arm) steps. The actions are to move up (0), right (1), down
    (2) and left (3); walls and the first object stop the agent.

    Observed are the cells around the agent, an image (3, 3, 3) of zeros and ones: walls, objects of
    the first kind, objects of the second (partial observability, POMDP). Within the corridor all
    places look the same, and where the objects are to be compared the first one is out of sight:
    a policy without memory solves half of the episodes, by chance.
    """
    if length < 2 or arm < 1:
        raise Error(
            f"A T-maze has a corridor of at least 2 cells and arms of at least 1; got {length=}, "
            f"{arm=}."
        )
    maze = TMaze(length, arm)
    steps = 4 * (length + 3 * arm)
    return Environment(maze.reset, maze.step, maze.observe, Discrete(len(MOVES)), steps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TMazeState:
    """An episode's state."""

    place: Array  # of the agent: (row, column)
    kind: Array  # of the object at the beginning: 0 or 1
    same_is_up: Array  # bool: the object of the same kind lies at the end of the upper arm


@dataclass(frozen=True)
class TMaze:
    """The maze's three functions; see `t_maze`. A cell is (row, column), with walls all around."""

    length: int
    arm: int

    @property
    def first_object(self) -> tuple[int, int]:
        """The cell of the object at the beginning."""
        return self.arm + 1, 1

    @property
    def ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The cells at the ends of the upper and of the lower arm."""
        return (1, self.length + 2), (2 * self.arm + 1, self.length + 2)

    @property
    def walls(self) -> np.ndarray:
        """Where the walls are: of bool, (rows, columns)."""
        walls = np.ones((2 * self.arm + 3, self.length + 4), bool)
        walls[self.arm + 1, 1:-1] = False
        walls[1:-1, self.length + 2] = False
        return walls

    def reset(self, key: Key) -> TMazeState:
        """The agent beside the object at the beginning; kind and arm are random."""
        kind, up = jax.random.bernoulli(key, shape=(2,))
        row, column = self.first_object
        return TMazeState(jnp.asarray((row, column + 1)), kind.astype(jnp.int32), up)

    def step(self, state: TMazeState, action: Array, key: Key) -> tuple[TMazeState, Array, Array]:
        """Moves the agent, if nothing is in its way."""
        closed = self.walls
        closed[self.first_object] = True
        row, column = state.place + jnp.asarray(MOVES)[action]
        place = jnp.where(jnp.asarray(closed)[row, column], state.place, jnp.stack([row, column]))
        at_upper, at_lower = ((place == jnp.asarray(end)).all() for end in self.ends)
        solved = jnp.where(state.same_is_up, at_upper, at_lower)
        new = TMazeState(place, state.kind, state.same_is_up)
        return new, solved.astype(jnp.float32), at_upper | at_lower

    def observe(self, state: TMazeState) -> Array:
        """The 3 by 3 cells around the agent: walls, objects of kind 0, objects of kind 1."""
        upper = jnp.where(state.same_is_up, state.kind, 1 - state.kind)
        cells, kinds = (self.first_object, *self.ends), (state.kind, upper, 1 - upper)
        grid = jnp.zeros((*self.walls.shape, 3)).at[..., 0].set(self.walls.astype(np.float32))
        for (row, column), kind in zip(cells, kinds, strict=True):
            grid = grid.at[row, column, 1 + kind].set(1.0)
        row, column = state.place - 1
        return jax.lax.dynamic_slice(grid, (row, column, jnp.zeros_like(row)), (3, 3, 3))
