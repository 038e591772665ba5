"""Environments against Gymnasium, distributions against SciPy, learners against loops written out.

Seen to fail: a fallen pole that goes on, advantages that pass the end of an episode, a truncated
episode that counts as terminated, a later episode that counts in the return, REINFORCE by rewards
of the past, a replay buffer written at one place, a population of one seed many times.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn

import jdl
from jdl.environments import (
    Box,
    Discrete,
    Environment,
    reset_episodes,
    rollout,
    step_episodes,
)
from jdl.learners import member
from jdl.learners.ppo import gae
from jdl.metrics import PerMember, scalars
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.types import Error, Mean


def corridor(max_episode_steps=9):
    """Places from 0: action 1 moves on, with the place it leaves as reward; 0 stays; 5 ends it."""

    def step(state, action, key):
        place = state + (action == 1).astype(jnp.float32)
        return place, jnp.where(action == 1, state, 0.0), place >= 5

    return Environment(
        lambda key: jnp.zeros(()), step, lambda state: state[None], Discrete(2), max_episode_steps
    )


class Fixed(nn.Module):
    """A policy that does not depend on the observation, and values that are a multiple of it."""

    policy: tuple[float, ...]
    value: float | None = None

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        policy = self.param("policy", lambda key: jnp.asarray(self.policy))
        policy = jnp.broadcast_to(policy[None], (len(x), len(self.policy)))
        if self.value is None:
            return policy
        return policy, self.param("value", lambda key: jnp.asarray(self.value)) * x.sum(-1)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


# Gymnasium 1.4.0, from the states below, by actions (n * n // 3) % 2 and torques 3 sin(n) in step n
POLE = {6: (-0.00426323143, -0.02381194838, 0.05581108983, 0.12425341773)}
POLE[22] = (-0.05396484015, -0.05006076266, 0.22296619562, 0.71977380243)
PENDULUM = {10: (-0.99937701225, -0.03529302776, 0.97887730598, -9.846933359)}
PENDULUM[60] = (-0.99892741442, 0.04630411416, -0.15471388400, -9.654412220)


def test_cartpole_is_gymnasiums():
    cartpole, key = jdl.environments.cartpole(), jax.random.key(0)
    state, fell = jnp.asarray([0.01, -0.02, 0.03, 0.04]), False
    for n in range(22):
        assert not fell
        state, reward, fell = cartpole.step(state, jnp.asarray(n * n // 3 % 2), key)
        assert reward == 1
        if n + 1 in POLE:
            np.testing.assert_allclose(state, POLE[n + 1], atol=1e-5)
    assert fell
    starts = jax.vmap(cartpole.reset)(keys(200))
    assert 0.04 < float(jnp.abs(starts).max()) <= 0.05


def test_pendulum_is_gymnasiums():
    pendulum, key = jdl.environments.pendulum(), jax.random.key(0)
    state = jnp.asarray([3.0, -0.5])
    for n in range(60):
        action = pendulum.action_space.unnormalize(jnp.asarray([1.5 * np.sin(n)], jnp.float32))
        state, reward, terminated = pendulum.step(state, action, key)
        assert not terminated
        if n + 1 in PENDULUM:
            np.testing.assert_allclose(
                [*pendulum.observe(state), reward], PENDULUM[n + 1], atol=2e-4
            )


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


def test_episodes_follow_each_other():
    """Row 0 moves on at every step, row 1 stays and is truncated."""
    environment = corridor()
    episodes = reset_episodes(environment, keys(2))
    results = []
    for n in range(10):
        actions = jnp.asarray([1, 0])
        episodes, result = step_episodes(environment, episodes, actions, keys(2, n))
        results.append(result)
    steps = jax.tree.map(lambda *leaves: np.stack(leaves), *results)
    np.testing.assert_array_equal(steps.next_obs[:, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4, 9])
    np.testing.assert_array_equal(np.flatnonzero(steps.done[:, 1]), [8])
    assert not steps.terminated[:, 1].any()
    assert (steps.episode_return[4, 0], *steps.episode_length[[4, 8], [0, 1]]) == (10, 5, 9)
    np.testing.assert_array_equal(episodes.episode_length, [0, 1])


def test_episode_return_is_of_one_episode_a_row_by_the_greedy_policy():
    batch = jdl.data.arrays(episode=np.arange(7)).batches(10)[0]
    for policy, total, length in (((0.0, 1.0), 10.0, 5.0), ((1.0, 0.0), 0.0, 9.0)):
        objective = jdl.objectives.episode_return(corridor(), Fixed(policy))
        variables = objective.init(jax.random.key(0), batch)
        out = jax.jit(objective.loss, static_argnums=3)(variables, batch, jax.random.key(1), False)
        assert scalars({"loss": out.loss, **out.metrics}) == {
            "loss": -total,
            "length": length,
            "return": total,
        }
        assert float(out.loss.count) == 7
        assert (
            objective.predict(variables, {"x": jnp.zeros((3, 1))})["action"].tolist()
            == [int(length == 5)] * 3
        )


def test_episode_return_counts_only_the_first_episode_of_a_row():
    """Of n steps with the reward n each, n random; after one step all are truncated."""

    def step(state, action, key):
        n, time = state
        return (n, time + 1), n.astype(jnp.float32), time + 1 >= n

    def reset(key):
        return jax.random.randint(key, (), 1, 6), 0

    def observe(state):
        return jnp.stack(state).astype(jnp.float32)

    def returns(max_episode_steps):
        environment = Environment(reset, step, observe, Discrete(2), max_episode_steps)
        objective = jdl.objectives.episode_return(environment, Fixed((0.0, 1.0)))
        batch = jdl.data.episodes(50)[0]
        variables = objective.init(jax.random.key(0), batch)

        def of_row(mask):
            rows = {**batch, "mask": mask}
            return objective.loss(variables, rows, jax.random.key(1), False).metrics["return"]

        return jax.jit(jax.vmap(of_row))(jnp.eye(50)).total

    n = returns(max_episode_steps=1)
    assert len(np.unique(n)) == 5
    np.testing.assert_array_equal(returns(max_episode_steps=9), n**2)


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


# A function that makes the learner; steps in which it learns; steps after which rounding has not
# changed a sampled action yet.
LEARNERS = {
    "reinforce": (
        lambda: jdl.descent(jdl.objectives.reinforce(corridor(), ActorCritic(2)), optax.adam(1e-2)),
        60,
        12,
    ),
    "ppo": (lambda: jdl.ppo(corridor(), ActorCritic(2), optax.adam(1e-2), num_steps=16), 20, 4),
    "dqn": (
        lambda: jdl.dqn(corridor(), MLP(2, (16,)), optax.adam(1e-2), lambda step: 0.3, **SMALL),
        200,
        12,
    ),
}
SMALL = {
    "num_steps": 4,
    "buffer_size": 256,
    "batch_size": 32,
    "learning_starts": 5,
    "target_update_every": 10,
    "gamma": 0.5,
}


@pytest.fixture(params=LEARNERS)
def case(request):
    return request.param


def trained(learner, steps, seed=0, rows=4):
    batch = jdl.data.episodes(rows)[0]
    state, step = jax.jit(learner.init)(jax.random.key(seed), batch), jax.jit(learner.step)
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


def test_learns_to_reach_the_end(case):
    make, steps, _ = LEARNERS[case]
    learner = make()
    state, _ = trained(learner, steps)
    out = learner.objective.loss(
        learner.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(2), False
    )
    assert scalars(out.metrics) == {"return": 10.0, "length": 5.0}


def test_a_member_of_a_population_learns_as_its_seed_does_alone(case):
    make, _, steps = LEARNERS[case]
    many, metrics = trained(jdl.population(make(), (3, 0, 8)), steps, seed=99)
    each = [trained(make(), steps, seed) for seed in (3, 0, 8)]
    for n, (alone, _) in enumerate(each):
        params = jax.tree.leaves(member(many.params, n))
        for a, b in zip(params, jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(metrics["return"].count) == sum(
        float(metrics["return"].count) for _, metrics in each
    )
    assert many.step == steps


def test_a_population_is_evaluated_member_by_member():
    learner = jdl.population(LEARNERS["ppo"][0](), (0, 1))
    state, _ = trained(learner, 1)
    batch = jdl.data.episodes(3)[0]
    out = learner.objective.loss(learner.eval_variables(state), batch, jax.random.key(2), False)
    numbers = scalars(
        {"loss": out.loss, **out.metrics, "more": PerMember((Mean(2.0, 1.0), Mean(6.0, 2.0)))}
    )
    assert numbers["loss"] == -numbers["return/mean"]
    assert numbers["return/min"] <= numbers["return/mean"] <= numbers["return/max"]
    assert [numbers[f"more/{name}"] for name in ("mean", "min", "max")] == [2.5, 2.0, 3.0]


def test_the_replay_buffer_holds_the_newest_transitions():
    """Of episodes that only move on, so that the place in the corridor identifies the step."""
    learner = jdl.dqn(
        corridor(),
        Fixed((0.0, 1.0)),
        optax.sgd(0.0),
        lambda step: 0.0,
        num_steps=3,
        buffer_size=24,
        learning_starts=99,
    )
    state, metrics = trained(learner, 6, rows=2)  # 36 transitions into 24 places
    places = np.arange(18) % 5  # of either row, by time
    newest = np.concatenate([np.repeat(places[12:18], 2), np.repeat(places[6:12], 2)])
    buffer = state.extra["replay_buffer"]
    np.testing.assert_array_equal(buffer["obs"][:, 0], newest)
    np.testing.assert_array_equal(buffer["next_obs"][:, 0], newest + 1)
    np.testing.assert_array_equal(buffer["terminated"], newest == 4)
    np.testing.assert_array_equal(buffer["reward"], newest)
    assert float(metrics["loss"].count) == 0  # before learning_starts


def test_the_target_network_is_updated_every_few_steps():
    learner = jdl.dqn(
        corridor(),
        MLP(2),
        optax.sgd(0.1),
        lambda step: 1.0,
        4,
        32,
        8,
        learning_starts=0,
        target_update_every=5,
    )
    batch = jdl.data.episodes(1)[0]
    state = learner.init(jax.random.key(0), batch)
    step, before = jax.jit(learner.step), []
    for n in range(8):
        before.append(np.asarray(state.params["Dense_0"]["kernel"]))
        state, _ = step(state, batch)
        target = state.extra["target_params"]["Dense_0"]["kernel"]
        np.testing.assert_array_equal(target, before[n // 5 * 5])
    assert not np.array_equal(before[0], before[5])


def check(environment, model):
    objective = jdl.objectives.episode_return(environment, model)
    objective.check(jdl.data.episodes(2).spec, {})


def init(learner, rows):
    learner.init(jax.random.key(0), jdl.data.episodes(rows)[0])


REFUSED = {
    "takes 2 numbers each": lambda: check(corridor(), MLP(3)),
    "use PPO": lambda: jdl.dqn(
        jdl.environments.pendulum(), MLP(2), optax.sgd(1.0), lambda step: 0.0
    ),
    "do not divide the buffer_size": lambda: init(
        jdl.dqn(corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, buffer_size=25), 3
    ),
    "buffer_size=0": lambda: jdl.dqn(
        corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, buffer_size=0
    ),
    "no multiple of the 7": lambda: init(
        jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), num_minibatches=7), 2
    ),
    "clip_eps=0": lambda: jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), clip_eps=0),
    "such as ActorCritic": lambda: trained(
        jdl.ppo(corridor(), MLP(2), optax.sgd(1.0), num_minibatches=1), 1
    ),
    "gamma, the discount factor": lambda: jdl.objectives.reinforce(corridor(), MLP(2), gamma=1.5),
    "at least 1, not 0": lambda: jdl.data.episodes(0),
    "different whole numbers": lambda: jdl.population(LEARNERS["dqn"][0](), (1, 1)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(Error, match=message):
        REFUSED[message]()
