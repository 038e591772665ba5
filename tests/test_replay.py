"""Replay buffers, double DQN and dueling networks, each against what is computed by hand.

Seen to fail: a double DQN whose target network chooses the action; samples by the squares of the
priorities, or not stratified; weights that are not divided by their maximum, or not in the loss;
new transitions without a priority; priorities changed before learning starts; a dueling network
that adds advantages as they are.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reinforcement_harness import Fixed, corridor, train

import jdl
from jdl.learners import PrioritizedReplay
from jdl.learners.replay import add_to_buffer, filled_rows, sample_uniform
from jdl.models.mlp import MLP
from jdl.models.q_network import Dueling

BETA = optax.constant_schedule(0.5)


def moving_on(**options):
    """DQN in the corridor by a policy that only moves on, with a replay buffer of 24 places."""
    policy, sizes = Fixed((0.0, 1.0)), {"buffer_size": 24, "batch_size": 8}
    return jdl.dqn(corridor(), policy, optax.sgd(0.0), lambda step: 0.0, **sizes, **options)


def test_the_replay_buffer_holds_the_newest_transitions():
    """Of episodes that only move on, so that the place in the corridor identifies the step."""
    learner = moving_on(num_steps=3, learning_starts=99)
    state, metrics = train(learner, 6, rows=2)  # 36 transitions into 24 places
    places = np.arange(18) % 5  # of either row, by time
    newest = np.concatenate([np.repeat(places[12:18], 2), np.repeat(places[6:12], 2)])
    buffer = state.extra["replay_buffer"]
    np.testing.assert_array_equal(buffer["obs"][:, 0], newest)
    np.testing.assert_array_equal(buffer["next_obs"][:, 0], newest + 1)
    np.testing.assert_array_equal(buffer["terminated"], newest == 4)
    np.testing.assert_array_equal(buffer["reward"], newest)
    assert float(metrics["loss"].count) == 0  # before learning_starts


def test_the_replay_buffer_is_filled_in_turn_after_any_number_of_steps():
    """The transitions of 2^28 steps, 2^31, are more than an int32 holds."""
    learner = moving_on(num_steps=4)
    state = learner.init(jax.random.key(0), jdl.data.episodes(2)[0])
    state = replace(state, step=jnp.asarray(2**28, jnp.int32))
    _, transitions = learner.collect_rollout(state, jax.random.key(1))
    buffer = add_to_buffer(state.extra["replay_buffer"], transitions, state.step)
    np.testing.assert_array_equal(buffer["next_obs"][16:], 0)
    assert (np.asarray(buffer["next_obs"][8:16]) > 0).all()
    sampled = sample_uniform(filled_rows(buffer, transitions, state.step), jax.random.key(2), 200)
    assert set(np.asarray(sampled).tolist()) == set(range(24))


def test_prioritized_replay_samples_in_proportion_and_weighs_against_it():
    """Ten rows are filled; of each, a share like its priority's, and the paper's weight."""
    priority = np.asarray([1, 2, 3, 4, 0.5, 5, 1, 1, 2, 0.5, 0, 0, 0, 0, 0], np.float32)
    replay, filled = PrioritizedReplay(BETA), jnp.asarray(10)
    sample = jax.jit(
        lambda key: replay.sample({"priority": jnp.asarray(priority)}, filled, 0, key, 8)
    )
    indices, weights = jax.vmap(sample)(jax.random.split(jax.random.key(0), 5_000))
    share = np.bincount(np.ravel(indices), minlength=15) / indices.size
    np.testing.assert_allclose(share, priority / 20, atol=0.004)
    expected = (10 * priority[np.asarray(indices)] / 20) ** -0.5
    np.testing.assert_allclose(weights, expected / expected.max(1, keepdims=True), rtol=1e-5)
    counts = np.apply_along_axis(np.bincount, 1, np.asarray(indices), minlength=15)
    assert (counts[:, 5] == 2).mean() > 0.6  # stratified: 8 * 5 / 20 times in most batches


def test_priorities_follow_the_td_errors():
    replay = PrioritizedReplay(BETA, alpha=0.5, epsilon=0.25)
    learner = moving_on(num_steps=4, learning_starts=2, prioritized=replay, gamma=0.0)
    state, _ = train(learner, 2, rows=2)
    buffer = state.extra["replay_buffer"]
    np.testing.assert_array_equal(buffer["priority"], [1] * 16 + [0] * 8)
    state, metrics = train(learner, 4, state, rows=2)
    buffer = state.extra["replay_buffer"]
    # The policy's Q-value of moving on is 1, and the reward the place: what was sampled has the
    # priority of this difference, and what was not, the largest of its time.
    own = np.sqrt(np.abs(1 - np.asarray(buffer["reward"])) + 0.25)
    sampled = np.isclose(buffer["priority"], own)
    assert sampled.sum() > 12
    largest = {1.0, *own.astype(np.float32).tolist()}
    others = np.asarray(buffer["priority"])[~sampled]
    assert all(np.isclose(other, list(largest)).any() for other in others)
    assert float(metrics["loss"].value()) > 0


def test_a_double_dqn_takes_the_target_networks_value_of_its_own_action():
    rows = {
        "next_obs": jnp.zeros((2, 1)),
        "reward": jnp.asarray([1.0, 1.0]),
        "terminated": jnp.asarray([False, True]),
    }
    online, target = ({"policy": jnp.asarray(q)} for q in ([3.0, 1.0], [2.0, 7.0]))
    for double, value in ((False, 7.0), (True, 2.0)):
        learner = moving_on(double=double, gamma=0.5)
        np.testing.assert_array_equal(
            learner.td_target(online, target, rows), [1.0 + 0.5 * value, 1.0]
        )


def test_the_importance_weights_are_those_of_the_loss():
    learner = moving_on(prioritized=PrioritizedReplay(BETA), gamma=0.0)
    rows = {
        "obs": jnp.zeros((2, 1)),
        "next_obs": jnp.zeros((2, 1)),
        "action": jnp.asarray([0, 1]),
        "reward": jnp.asarray([0.0, 0.0]),
        "terminated": jnp.asarray([False, False]),
        "weight": jnp.asarray([0.5, 1.0]),
    }
    params = {"policy": jnp.asarray([2.0, 3.0])}
    loss, (q_value, td_error) = learner.loss(params, params, rows)
    assert loss == 0.5 * (0.5 * 4 + 9) / 2
    np.testing.assert_array_equal(q_value, [2, 3])
    np.testing.assert_array_equal(td_error, [2, 3])


def test_the_advantages_of_a_dueling_network_have_the_mean_0():
    model, x = Dueling(3, MLP(8), hidden=(4,)), jax.random.normal(jax.random.key(0), (5, 2))
    variables = model.init(jax.random.key(1), x)
    q_values, more = model.apply(
        variables, x, capture_intermediates=True, mutable=["intermediates"]
    )
    value = more["intermediates"]["value"]["__call__"][0]
    np.testing.assert_allclose(q_values.mean(1), value[:, 0], atol=1e-6)
    assert float(jnp.abs(q_values - value).min(1).max()) > 1e-3  # and they are not all 0


def test_refuses_priorities_that_cannot_be():
    with pytest.raises(jdl.Error, match="alpha of at least 0"):
        PrioritizedReplay(BETA, alpha=-1.0)
