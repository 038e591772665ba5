"""Policy gradients: distributions of actions against SciPy, advantages by GAE, REINFORCE.

Seen to fail: advantages that pass the end of an episode, a truncated episode that counts as
terminated, REINFORCE by rewards of the past.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn
from reinforcement_harness import Fixed, corridor, keys

import jdl
from jdl.environments import Box, Discrete, Environment, reset_episodes, rollout
from jdl.learners.ppo import gae
from jdl.metrics import scalars
from jdl.models.mlp import MLP


@pytest.mark.slow
def test_action_distributions_are_those_of_scipy():
    logits = jax.random.normal(jax.random.key(0), (6, 4))
    action, discrete = jnp.arange(6) % 4, Discrete(4)
    probabilities = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(
        discrete.log_prob(logits, action), np.log(probabilities[range(6), action]), rtol=1e-5
    )
    np.testing.assert_allclose(
        discrete.entropy(logits), scipy.stats.entropy(probabilities, axis=1), rtol=1e-5
    )
    samples = jax.vmap(partial(discrete.sample, logits[0]))(keys(4_000))
    np.testing.assert_allclose(
        np.bincount(samples, minlength=4) / 4_000, probabilities[0], atol=0.03
    )

    box, policy = Box((-2.0, 0.0), (2.0, 1.0)), jax.random.normal(jax.random.key(1), (6, 4))
    normal = scipy.stats.norm(np.asarray(policy[:, :2]), np.exp(np.asarray(policy[:, 2:])))
    x = jax.random.normal(jax.random.key(2), (6, 2))
    np.testing.assert_allclose(
        box.log_prob(policy, x), normal.logpdf(np.asarray(x)).sum(1), rtol=1e-5
    )
    np.testing.assert_allclose(box.entropy(policy), normal.entropy().sum(1), rtol=1e-5)
    samples = jax.vmap(partial(box.sample, policy[0]))(keys(4_000))
    np.testing.assert_allclose(samples.std(0), np.exp(policy[0, 2:]), rtol=0.05)
    np.testing.assert_allclose(
        box.unnormalize(jnp.asarray([[-3.0, 0.5], [1.0, -1.0]])), [[-2.0, 0.75], [2.0, 0.0]]
    )


@pytest.mark.slow
def test_gae_is_the_sum_of_td_errors_up_to_the_end_of_an_episode():
    environment, gamma, gae_lambda = corridor(max_episode_steps=4), 0.9, 0.8

    def select_action(obs, keys):
        return jax.vmap(lambda key: jax.random.bernoulli(key, 0.8).astype(jnp.int32))(keys)

    episodes = reset_episodes(environment, keys(5))
    _, steps = rollout(environment, select_action, episodes, keys(5, 1), 30)
    done, terminated = np.asarray(steps.done), np.asarray(steps.terminated)
    assert done.any()
    value, next_value = 3 * steps.obs[..., 0] + 1, 3 * steps.next_obs[..., 0] + 1
    advantages = gae(steps, value, next_value, gamma, gae_lambda)
    expected = np.zeros(done.shape)
    for row in range(5):
        for t in range(30):
            weight = 1.0
            for s in range(t, 30):
                later = 0.0 if terminated[s, row] else float(next_value[s, row])
                td_error = float(steps.reward[s, row]) + gamma * later - float(value[s, row])
                expected[t, row] += weight * td_error
                weight *= gamma * gae_lambda
                if done[s, row]:
                    break
    np.testing.assert_allclose(advantages, expected, rtol=1e-4, atol=1e-4)


def test_gae_bootstraps_a_truncated_episode_and_not_a_terminated_one():
    for max_episode_steps, bootstrap in ((9, 0.0), (3, 0.5 * 7.0)):
        environment = corridor(max_episode_steps)
        _, steps = rollout(
            environment,
            lambda obs, keys: jnp.ones(len(obs), jnp.int32),
            reset_episodes(environment, keys(1)),
            keys(1),
            5,
        )
        last = 4 if max_episode_steps == 9 else 2
        advantages = gae(steps, jnp.zeros((5, 1)), jnp.full((5, 1), 7.0), 0.5, 0.0)
        assert float(advantages[last, 0]) == last + bootstrap


@pytest.mark.slow
def test_reinforce_has_the_gradient_of_the_expected_return():
    """Of one step with reward 1 for action 1, of probability p: dp/d(logit) = p (1 - p)."""
    one = Environment(
        lambda key: jnp.zeros(()),
        lambda state, action, key: (state, (action == 1).astype(jnp.float32), jnp.ones((), bool)),
        lambda state: state[None],
        Discrete(2),
        3,
    )
    objective = jdl.objectives.reinforce(one, Fixed((0.0, 0.5)))
    batch = jdl.data.episodes(20_000)[0]
    variables = objective.init(jax.random.key(0), batch)

    def loss(params):
        out = objective.loss({"params": params}, batch, jax.random.key(1), True)
        return out.loss.value(), out.metrics

    grads, metrics = jax.grad(loss, has_aux=True)(variables["params"])
    p = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(grads["policy"], [p * (1 - p), -p * (1 - p)], atol=0.01)
    assert scalars(metrics)["return"] == pytest.approx(p, abs=0.01)
    assert scalars(metrics)["length"] == 1


@pytest.mark.slow
def test_reinforce_credits_what_comes_after():
    """Only the first of three steps has a reward: no action of the others is to be credited."""
    first = Environment(
        lambda key: jnp.zeros(()),
        lambda n, action, key: (n + 1, jnp.where((n == 0) & (action == 1), 1.0, 0.0), n >= 2),
        lambda n: nn.one_hot(n.astype(jnp.int32), 3),
        Discrete(2),
        9,
    )
    objective = jdl.objectives.reinforce(first, MLP(2), gamma=1.0)
    batch = jdl.data.episodes(4_000)[0]
    variables = objective.init(jax.random.key(0), batch)

    def loss(params):
        return objective.loss({"params": params}, batch, jax.random.key(1), True).loss.value()

    kernel = jax.grad(loss)(variables["params"])["Dense_0"]["kernel"]  # (step, action)
    assert float(kernel[0, 1]) < -0.1
    np.testing.assert_array_equal(kernel[1:], 0)
