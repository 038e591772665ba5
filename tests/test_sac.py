"""SAC: the squashed Gaussian, its losses and its targets, against what is computed by hand.

Seen to fail: a density without the slope of tanh; the larger of the two critics in the target; a
target without the entropy; an actor's loss whose gradient reaches the critics; a temperature that
goes the other way; target networks that follow at once; actions of the policy from the first step.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reinforcement_harness import Fixed, corridor, keys, train

import jdl
from jdl.environments import Box, SquashedBox
from jdl.models.mlp import MLP

SPACE = SquashedBox((-1.0,), (1.0,))
SIZES = {"num_steps": 4, "buffer_size": 64, "batch_size": 8}


def learner(**options):
    actor, critic = Fixed((3.0, -1.0)), Fixed((1.0,))
    defaults = {"gamma": 0.5, "learning_starts": 2}
    environment = corridor(continuous=True)
    return jdl.sac(environment, actor, critic, optax.sgd(0.1), **{**SIZES, **defaults, **options})


def minibatch():
    return {
        "obs": jnp.zeros((3, 1)),
        "next_obs": jnp.zeros((3, 1)),
        "action": jnp.zeros((3, 1)),
        "reward": jnp.asarray([1.0, 2.0, 3.0]),
        "terminated": jnp.asarray([False, False, True]),
    }


def params(temperature=1.0):
    return {
        "actor": {"policy": jnp.asarray([0.5, -1.0])},
        "critics": {"policy": jnp.asarray([[4.0], [7.0]])},
        "log_temperature": jnp.log(temperature),
    }


@pytest.mark.slow
def test_the_density_of_a_squashed_gaussian_is_that_of_its_samples():
    policy = jnp.asarray([0.4, -0.5])
    points = jnp.linspace(-1, 1, 4_001)[1:-1, None]
    density = jnp.exp(SPACE.log_prob(jnp.broadcast_to(policy, (len(points), 2)), points))
    np.testing.assert_allclose(density.sum() * 0.0005, 1, atol=1e-3)
    action, log_prob = jax.vmap(SPACE.sample_and_log_prob, (None, 0))(policy, keys(20_000))
    np.testing.assert_array_equal(action, jax.vmap(SPACE.sample, (None, 0))(policy, keys(20_000)))
    share = np.histogram(action, 8, (-1, 1))[0] / 20_000
    expected = np.asarray(density[:3999]).reshape(-1)
    expected = [part.sum() * 0.0005 for part in np.array_split(expected, 8)]
    np.testing.assert_allclose(share, expected, atol=0.012)
    np.testing.assert_allclose(
        log_prob, SPACE.log_prob(jnp.broadcast_to(policy, (20_000, 2)), action), atol=1e-2
    )
    np.testing.assert_allclose(SPACE.mode(policy), np.tanh([0.4]), rtol=1e-6)


def test_the_density_is_exact_where_tanh_is_as_good_as_1():
    """By the numbers before tanh, in 64 bits: the normal density, times 1 / (1 - tanh^2)."""
    policy = jnp.asarray([15.0, 0.0])
    action, log_prob = SPACE.sample_and_log_prob(policy, jax.random.key(3))
    u = 15.0 + float(jax.random.normal(jax.random.key(3), (1,))[0])
    expected = -0.5 * (u - 15) ** 2 - 0.5 * np.log(2 * np.pi) + 2 * np.log(np.cosh(u))
    np.testing.assert_allclose(action, 1, atol=1e-6)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    with pytest.raises(jdl.Error, match="no closed form"):
        SPACE.entropy(policy)


def test_the_td_target_has_the_smaller_critic_and_the_entropy():
    policy = jnp.broadcast_to(params()["actor"]["policy"], (3, 2))
    _, log_prob = SPACE.sample_and_log_prob(policy, jax.random.key(5))
    target_critics = {"policy": jnp.asarray([[6.0], [5.0]])}
    found = learner().td_target(
        params(temperature=0.3), target_critics, minibatch(), jax.random.key(5)
    )
    soft_value = 5 - 0.3 * np.asarray(log_prob)
    np.testing.assert_allclose(
        found, [1 + 0.5 * soft_value[0], 2 + 0.5 * soft_value[1], 3.0], rtol=1e-6
    )


@pytest.mark.slow
def test_each_loss_has_a_gradient_to_its_own_parameters_alone():
    sac = learner(target_entropy=5.0)

    def parts(params):
        return sac.loss(params, params["critics"], minibatch(), jax.random.key(1))[1]

    values, grads = parts(params(0.5)), jax.jacrev(parts)(params(0.5))
    own = {
        "critic_loss": "critics",
        "actor_loss": "actor",
        "temperature_loss": "log_temperature",
    }
    for loss, module in own.items():
        assert {
            name
            for name, tree in grads[loss].items()
            if any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(tree))
        } == {module}, loss
    # The entropy is below its target: a step of descent is to make the temperature larger.
    slope = grads["temperature_loss"]["log_temperature"]
    np.testing.assert_allclose(slope, 0.5 * (values["entropy"] - 5), rtol=1e-5)
    assert slope < 0
    q_values = np.asarray([4.0, 7.0])
    target = sac.td_target(
        params(0.5), params()["critics"], minibatch(), jdl.stream(jax.random.key(1), "next_action")
    )
    expected = 0.5 * np.square(q_values[:, None] - np.asarray(target)).mean(1).sum()
    np.testing.assert_allclose(values["critic_loss"], expected, rtol=1e-6)
    assert values["q_value"] == 4


@pytest.mark.slow
def test_targets_follow_slowly_and_actions_are_random_before_learning():
    """Here the critics alone have a learning rate."""
    rates = {"actor": 0.0, "critics": 0.1, "log_temperature": 0.0}
    optimizer = jdl.optim.per_module(**{name: optax.sgd(rate) for name, rate in rates.items()})
    sac, batch = replace(learner(tau=0.25), optimizer=optimizer), jdl.data.episodes(2)[0]
    state = sac.init(jax.random.key(0), batch)
    collect_rollout = jax.jit(sac.collect_rollout)
    _, first = collect_rollout(state, jax.random.key(1))
    _, later = collect_rollout(replace(state, step=jnp.asarray(2, jnp.int32)), jax.random.key(1))
    assert float(first.action.min()) < -0.4
    assert float(later.action.min()) > 0.8  # the mean is tanh(3)
    before, _ = train(sac, 2, rows=2)
    assert_same(before.params, state.params)
    after, _ = train(sac, 1, before, rows=2)
    assert_same(after.params["actor"], before.params["actor"])
    old, new = before.extra["target_critics"]["policy"], after.params["critics"]["policy"]
    assert (new != old).all()
    np.testing.assert_allclose(
        after.extra["target_critics"]["policy"], 0.25 * new + 0.75 * old, rtol=1e-6
    )


def assert_same(a, b):
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_the_critics_begin_apart():
    state = jdl.sac(corridor(continuous=True), MLP(2), MLP(1), optax.sgd(0.1), **SIZES).init(
        jax.random.key(0), jdl.data.episodes(1)[0]
    )
    first, second = state.params["critics"]["Dense_0"]["kernel"]
    assert (first != second).all()
    assert first.shape == (2, 1)  # the observation and the action


def refused(environment=None, **options):
    environment = environment or corridor(continuous=True)
    return jdl.sac(environment, MLP(2), MLP(1), optax.sgd(0.1), **options)


REFUSED = {
    "one Q-value each": lambda: jdl.sac(
        corridor(continuous=True), MLP(2), MLP(2), optax.sgd(0.1)
    ).objective.check(jdl.data.episodes(2).spec, {}),
    "continuous action space": lambda: refused(corridor()),
    "must be finite": lambda: refused(
        replace(corridor(), action_space=Box((0.0,), (float("inf"),)))
    ),
    "is smaller than the batch_size of 256": lambda: refused(buffer_size=128),
    "tau=0": lambda: refused(tau=0),
    "do not divide the buffer_size": lambda: refused(num_steps=3).init(
        jax.random.key(0), jdl.data.episodes(1)[0]
    ),
    "takes 2 numbers each": lambda: jdl.sac(
        corridor(continuous=True), MLP(1), MLP(1), optax.sgd(0.1)
    ).objective.check(jdl.data.episodes(2).spec, {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(jdl.Error, match=message):
        REFUSED[message]()
