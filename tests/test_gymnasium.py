"""Environments of Gymnasium: their steps, time limits, actions and observations.

By small fakes of its interface. Seen to fail, by one line of the adapter changed each time: a time
limit that terminates, a truncation by the environment itself that does not, observations that the
next one overwrites, actions and observations counted from another start; each refusal.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_environments import Dict, Walk, install, missing, space
from reinforcement_harness import keys

from jdl.environments import Box, Discrete, from_gymnasium, reset_episodes, rollout
from jdl.types import Error


class Rooms(Walk):
    """Numbered observations, and numbers (2, 1) as actions."""

    action_type = space(
        "Box", (2, 1), np.float64, low=np.full((2, 1), -1.0), high=np.full((2, 1), 2.0)
    )
    obs_type = space("Discrete", n=5, start=3)

    def step(self, action):
        assert (action.shape, action.dtype) == ((2, 1), np.float64)
        return super().step(action)

    def _observe(self):
        return 3 + min(int(abs(self.place) * 4), 4)


def direct_steps(kind, seed, actions, **options):
    """(obs, reward, terminated) of the environment itself, first and after each action."""
    env = kind(**options)
    results = [(np.array(env.reset(seed=seed)[0]), 0.0, False)]
    for action in actions:
        obs, reward, terminated, _, _ = env.step(action)
        results.append((np.array(obs), reward, terminated))
    return results


def test_gymnasium_steps_as_it_does_itself_and_its_limit_does_not_terminate(walk):
    environment = from_gymnasium("Walk-v0", push=0.2)
    assert (environment.action_space, environment.max_episode_steps) == (Discrete(3), 40)
    rows, length = 4, 90
    episodes = reset_episodes(environment, keys(rows))

    def policy(obs, keys):
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(keys)

    _, steps = jax.jit(lambda: rollout(environment, policy, episodes, keys(rows, 1), length))()
    steps = jax.tree.map(np.asarray, steps)
    truncated = steps.done & ~steps.terminated
    assert truncated.any() and steps.terminated.any()  # noqa: PT018
    at_limit = (steps.episode_length == 40) & ~steps.terminated
    np.testing.assert_array_equal(truncated, at_limit)
    for row in range(rows):
        last = np.flatnonzero(steps.done[:, row])[0]
        seed, actions = int(episodes.env_state["seed"][row]), steps.action[: last + 1, row] - 1
        expected = direct_steps(walk, seed, actions, push=0.2)
        for n in range(last + 1):
            obs, (next_obs, reward, terminated) = expected[n][0], expected[n + 1]
            np.testing.assert_array_equal(steps.obs[n, row], obs.astype(np.float32))
            np.testing.assert_array_equal(steps.next_obs[n, row], next_obs.astype(np.float32))
            assert steps.reward[n, row] == np.float32(reward)
            assert steps.terminated[n, row] == terminated


def test_gymnasium_with_continuous_actions_and_discrete_observations(monkeypatch):
    kind = install(monkeypatch, Rooms)
    environment = from_gymnasium("Walk-v0", max_episode_steps=9)
    assert (environment.action_space, environment.max_episode_steps) == (
        Box((-1.0, -1.0), (2.0, 2.0)),
        9,
    )
    state = environment.reset(jax.random.key(0))
    assert (state["actions"].shape, state["actions"].dtype) == ((9, 2), np.float32)
    actions = np.random.default_rng(0).uniform(-1, 2, (5, 2)).astype(np.float32)
    expected = direct_steps(kind, int(state["seed"]), actions.astype(float).reshape(5, 2, 1))
    for n, action in enumerate(actions):
        np.testing.assert_array_equal(environment.observe(state), np.arange(3, 8) == expected[n][0])
        state, reward, terminated = environment.step(state, jnp.asarray(action), jax.random.key(n))
        _, expected_reward, end = expected[n + 1]
        assert (float(reward), bool(terminated)) == (np.float32(expected_reward), end)


def test_a_truncation_by_gymnasiums_environment_itself_terminates(monkeypatch):
    class Truncating(Walk):
        def step(self, action):
            obs, reward, *_ = super().step(action)
            return obs, reward, False, self.time == 2, {}

    install(monkeypatch, Truncating)
    environment = from_gymnasium("Walk-v0")
    state, ends = environment.reset(jax.random.key(0)), []
    for n in range(2):
        state, _, terminated = environment.step(state, jnp.asarray(1), jax.random.key(n))
        ends.append(bool(terminated))
    assert ends == [False, True]


def other_walk(action_type=Walk.action_type, obs_type=Walk.obs_type, **more):
    """A class like `Walk`, of other spaces."""
    return type("Other", (Walk,), {"action_type": action_type, "obs_type": obs_type, **more})


def make(monkeypatch, kind, **options):
    install(monkeypatch, kind)
    return from_gymnasium("Walk-v0", **options)


REFUSED = {
    r"needs Gymnasium, which is not installed .*: pip install 'jdl\[rl\]'": lambda patch: missing(
        patch, "gymnasium", lambda: from_gymnasium("Walk-v0")
    ),
    "Walk-v0 takes actions of .*MultiBinary": lambda patch: make(
        patch, other_walk(space("MultiBinary", (3,), np.int8, n=3))
    ),
    "finite bounds": lambda patch: make(
        patch, other_walk(space("Box", (1,), low=-np.inf, high=1.0))
    ),
    "a Box of floats": lambda patch: make(
        patch, other_walk(space("Box", (1,), np.uint8, low=0, high=9))
    ),
    r"has observations of Dict\(a, b\)": lambda patch: make(patch, other_walk(obs_type=Dict())),
    "without a time limit.*max_episode_steps=": lambda patch: make(patch, other_walk(limit=None)),
    "at least 1, got 0": lambda patch: make(patch, Walk, max_episode_steps=0),
    "does not do the same again": lambda patch: make(patch, other_walk(deterministic=False)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message, monkeypatch):
    with pytest.raises(Error, match=message):
        REFUSED[message](monkeypatch)


@pytest.mark.slow
def test_refuses_steps_after_the_limit(walk):
    environment = from_gymnasium("Walk-v0", max_episode_steps=2)
    state = {**environment.reset(jax.random.key(0)), "count": jnp.asarray(2)}
    with pytest.raises(Exception, match="after its limit of 2 steps"):
        jax.block_until_ready(environment.step(state, jnp.asarray(1), jax.random.key(1)))
