"""Catch, MinAtar's Breakout and the T-maze: rules and images.

tests/golden/minatar.npz is written by scripts/golden_minatar.py. Seen to fail: a paddle that leaves
the grid, a ball that is caught a row too early; a ball that breaks two bricks in a row, that turns
only its row at the paddle's edge, a wall that is not built again; an action that never sticks; an
agent in a wall, an object that can be passed, objects of the other arm.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reinforcement_harness import keys

import jdl

GOLDEN = np.load(Path(__file__).parent / "golden" / "minatar.npz")


def test_catch_is_won_under_the_ball_alone():
    environment = jdl.environments.catch()
    starts = jax.vmap(environment.reset)(keys(100))
    assert set(np.asarray(starts["ball_column"]).tolist()) == set(range(5))
    step, observe = jax.jit(environment.step), jax.jit(environment.observe)
    for column in range(5):
        for action, end in ((0, 0), (1, 2), (2, 4)):
            state = {**jax.tree.map(lambda leaf: leaf[0], starts), "ball_column": column}
            for n in range(1, 10):
                state, reward, terminated = step(state, jnp.asarray(action), jax.random.key(n))
                ball, paddle = np.zeros((2, 10, 5))
                ball[n, column], paddle[9, 2 + (action - 1) * min(n, 2)] = 1, 1
                np.testing.assert_array_equal(observe(state)[..., 0], np.maximum(ball, paddle))
                assert bool(terminated) == (n == 9)
                assert float(reward) == (0 if n < 9 else 1 if column == end else -1)


@pytest.mark.parametrize("game", range(6))
def test_breakout_is_minatars(game):
    actions, rewards, ended, images = (
        GOLDEN[f"{name}_{game}"] for name in ("actions", "rewards", "ended", "images")
    )
    size = (len(actions) + 1) * 400
    images = np.unpackbits(images)[:size].reshape(-1, 10, 10, 4)
    environment = jdl.environments.breakout(sticky_actions=0.0)
    starts = jax.vmap(environment.reset)(keys(20))
    first = np.asarray(jax.vmap(environment.observe)(starts))
    same = [n for n in range(20) if (first[n, ..., :3] == images[0, ..., :3]).all()]
    assert 0 < len(same) < 20
    state = jax.tree.map(lambda leaf: leaf[same[0]], starts)
    state = replace(state, bricks=jnp.asarray(images[0, ..., 3], bool))  # of a full wall, or half

    def step(state, action):
        state, reward, terminated = environment.step(state, action, jax.random.key(0))
        return state, (environment.observe(state), reward, terminated)

    _, (seen, found, terminated) = jax.jit(
        lambda state, actions: jax.lax.scan(step, state, actions)
    )(state, jnp.asarray(actions, jnp.int32))
    np.testing.assert_array_equal(seen, images[1:])
    np.testing.assert_array_equal(found, rewards)
    np.testing.assert_array_equal(np.asarray(terminated)[:-1], False)
    assert bool(terminated[-1]) == bool(ended)


def test_a_wall_without_bricks_is_built_again_when_the_ball_is_down():
    environment = jdl.environments.breakout(sticky_actions=0.0)
    state = replace(
        environment.reset(jax.random.key(0)),
        ball=jnp.asarray([7, 3]),
        velocity=jnp.asarray([1, 1]),
        bricks=jnp.zeros((10, 10), bool),
    )
    for n, bricks in enumerate((0, 30)):
        state, reward, terminated = environment.step(state, jnp.asarray(0), jax.random.key(n))
        assert (int(state.bricks.sum()), float(reward), bool(terminated)) == (bricks, 0, False)
    assert state.velocity.tolist() == [-1, 1]


def test_an_action_sticks_with_its_probability():
    environment = jdl.environments.breakout(sticky_actions=0.3)
    state = environment.reset(jax.random.key(0))
    after, _, _ = jax.vmap(environment.step, (None, None, 0))(state, jnp.asarray(2), keys(2_000))
    assert set(np.asarray(after.paddle).tolist()) == {4, 5}
    assert 0.26 < float((after.paddle == 4).mean()) < 0.34
    np.testing.assert_array_equal(after.action == 0, after.paddle == 4)


T_MAZE = """
########
######0#
######.#
#0.....#
######.#
######1#
########
"""


@cache
def compiled_t_maze():
    """Starts of the maze, and its two compiled functions."""
    environment = jdl.environments.t_maze(length=4, arm=2)
    starts = jax.jit(jax.vmap(environment.reset))(keys(40))
    return starts, jax.jit(environment.step), jax.jit(environment.observe)


@pytest.mark.parametrize(("kind", "up"), [(0, True), (0, False), (1, True), (1, False)])
def test_the_t_maze_is_solved_at_the_object_of_the_same_kind(kind, up):
    starts, step, observe = compiled_t_maze()
    chosen = np.flatnonzero((starts.kind == kind) & (starts.same_is_up == up))
    assert 0 < len(chosen) < 20
    cells = np.asarray([list(line) for line in T_MAZE.split()])
    cells[5 if up else 1, 6], cells[1 if up else 5, 6], cells[3, 1] = 1 - kind, kind, kind
    grid = np.stack([cells == name for name in "#01"], -1)
    for arm in "ud":
        state, row, column = jax.tree.map(lambda leaf: leaf[chosen[0]], starts), 3, 2
        for n, move in enumerate(f"ludrlrrurr{arm}rl{arm}"):
            assert state.place.tolist() == [row, column]
            view = grid[row - 1 : row + 2, column - 1 : column + 2]
            np.testing.assert_array_equal(observe(state), view)
            to = row + {"u": -1, "d": 1}.get(move, 0), column + {"r": 1, "l": -1}.get(move, 0)
            if cells[to] != "#" and to != (3, 1):
                row, column = to
            state, reward, ended = step(state, jnp.asarray("urdl".index(move)), jax.random.key(n))
            assert bool(ended) == ((row, column) in ((1, 6), (5, 6)))
            assert float(reward) == float(ended and up == (arm == "u"))
        assert ended
