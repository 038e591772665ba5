"""Environments of gymnax: their steps, time limits, actions and observations, and training.

By small fakes of its interface. Seen to fail, by one line of the adapter changed each time: a time
limit that terminates or is hidden from 1.0, code that strict promotion refuses, a state whose
numbers change their type, actions of another shape; each refusal.
"""

import types
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fake_environments import Dict, missing, space
from reinforcement_harness import keys, trained

import jdl
from jdl.environments import Box, Discrete, from_gymnax, reset_episodes, step_episodes
from jdl.metrics import scalars
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.types import Error


@dataclass(frozen=True)
class Params:
    pace: int = 1
    max_steps_in_episode: int = 7


class Gymnax:
    """Places from 0 to 5, the end; 1 moves on. As before gymnax 1.0 the limit is `done` too."""

    default_params = Params()
    action_type, obs_type = space("Discrete", n=2), None

    def reset_env(self, key, params):
        return jnp.zeros(1), {"place": 0, "time": 0}

    def step_env(self, key, state, action, params):
        reward = 2 * (action * jnp.ones(()))  # an int by a float, which strict promotion refuses
        state = {
            "place": state["place"] + action * params.pace,
            "time": state["time"] + 1.0,
        }  # an int at first
        done = (state["place"] >= 5) | (state["time"] >= params.max_steps_in_episode)
        return state["place"][None], state, reward, done, {}

    def action_space(self, params):
        return self.action_type


class Torques(Gymnax):
    """Like it, by actions of numbers (2, 1), which are added."""

    action_type = space("Box", (2, 1), low=-2.0, high=np.asarray([[1.0], [4.0]]))

    def step_env(self, key, state, action, params):
        assert action.shape == (2, 1)
        state = {**state, "place": jnp.round(action.sum()).astype(jnp.int32)}
        return action[:, 0], state, action[0, 0], jnp.asarray(False), {}

    def reset_env(self, key, params):
        return jnp.zeros(2), {"place": 0, "time": 0}


@pytest.mark.slow
def test_gymnax_steps_and_its_time_limit_does_not_terminate():
    environment = from_gymnax(Gymnax())
    assert (environment.action_space, environment.max_episode_steps) == (Discrete(2), 7)
    episodes, results = reset_episodes(environment, keys(2)), []
    for n in range(8):
        actions = jnp.asarray([1, 0])
        episodes, result = step_episodes(environment, episodes, actions, keys(2, n))
        results.append(result)
    steps = jax.tree.map(lambda *leaves: np.stack(leaves), *results)
    np.testing.assert_array_equal(steps.next_obs[:, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4])
    np.testing.assert_array_equal(np.flatnonzero(steps.done[:, 1]), [6])
    assert not steps.terminated[:, 1].any()
    assert steps.reward.dtype == steps.next_obs.dtype == np.float32
    np.testing.assert_array_equal(steps.reward, np.tile([2, 0], (8, 1)))
    before = jax.eval_shape(environment.reset, keys(1)[0])
    after = jax.eval_shape(environment.step, before, jnp.asarray(1), keys(1)[0])[0]
    assert after == before  # the state keeps its types
    state = environment.reset(jax.random.key(0))
    assert from_gymnax(Gymnax(), Params(pace=5)).step(state, jnp.asarray(1), keys(1)[0])[2]


def test_gymnax_with_continuous_actions_of_any_shape():
    environment = from_gymnax(Torques())
    assert environment.action_space == Box((-2.0, -2.0), (1.0, 4.0))
    state = environment.reset(jax.random.key(0))
    action = environment.action_space.unnormalize(jnp.asarray([1.0, -1.0]))
    state, reward, _ = environment.step(state, action, jax.random.key(1))
    np.testing.assert_array_equal(environment.observe(state), [1, -2])
    assert float(reward) == 1
    assert state[1]["place"] == -1


def test_gymnax_from_1_0_keeps_its_params():
    """`done` is false at the time limit there, and some observe the share of it that has passed."""

    class Timed(Torques):
        def is_truncated(self, state, params):
            raise AssertionError

        def step_env(self, key, state, action, params):
            obs = jnp.full(2, 1 / params.max_steps_in_episode)
            return obs, state, jnp.zeros(()), jnp.asarray(False), {}

    environment = from_gymnax(Timed())
    state, _, _ = environment.step(
        environment.reset(jax.random.key(0)), jnp.zeros(2), jax.random.key(1)
    )
    np.testing.assert_allclose(environment.observe(state), 1 / 7)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_learns_in_gymnax(algorithm):
    environment = from_gymnax(Gymnax())
    if algorithm == "ppo":
        learner = jdl.ppo(environment, ActorCritic(2), optax.adam(1e-2), num_steps=16)
    else:
        learner = jdl.dqn(
            environment,
            MLP(2, (16,)),
            optax.adam(1e-2),
            lambda step: 0.3,
            4,
            256,
            32,
            learning_starts=5,
            gamma=0.7,  # else to wait costs less than the error of the values
        )
    state = trained(learner, 20 if algorithm == "ppo" else 150)
    out = learner.objective.loss(
        learner.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(2), False
    )
    assert scalars(out.metrics) == {"return": 10.0, "length": 5.0}


def gymnax(**more):
    return from_gymnax(type("Other", (Gymnax,), more)())


REFUSED = {
    r"needs gymnax, which is not installed .*: pip install 'jdl\[rl\]'": lambda patch: missing(
        patch, "gymnax", lambda: from_gymnax("CartPole-v1")
    ),
    r"takes actions of Dict\(a, b\)": lambda patch: gymnax(action_type=Dict()),
    "no max_steps_in_episode": lambda patch: gymnax(default_params=types.SimpleNamespace()),
    "observations of type dict": lambda patch: gymnax(
        reset_env=lambda *_: ({"a": jnp.zeros(1)}, {})
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message, monkeypatch):
    with pytest.raises(Error, match=message):
        REFUSED[message](monkeypatch)
