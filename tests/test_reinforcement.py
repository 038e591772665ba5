"""Environments against Gymnasium, distributions against SciPy, learners against loops written out.

Seen to fail: a fallen pole that goes on, advantages that pass the end of an episode, a cut-off episode that counts as
terminated, REINFORCE by rewards of the past, a memory written at one place, a population of one seed many times.
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
from jdl.environments import Box, Discrete, Environment, begin, move, rollout
from jdl.learners import member
from jdl.learners.ppo import gae
from jdl.metrics import PerMember, scalars
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.types import Error, Mean


def corridor(limit=9):
    """Places from 0: action 1 goes on and pays the place it leaves, 0 stays; it ends at place 5."""

    def step(state, action, key):
        place = state + (action == 1).astype(jnp.float32)
        return place, jnp.where(action == 1, state, 0.0), place >= 5

    return Environment(
        lambda key: jnp.zeros(()), step, lambda state: state[None], Discrete(2), limit
    )


class Fixed(nn.Module):
    """A policy of numbers that no observation moves, and values that are so many times the observation."""

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


# Gymnasium 1.4.0, from these states, by actions (n * n // 3) % 2 of steps n, and torques 3 sin(n)
POLE = {6: (-0.00426323143, -0.02381194838, 0.05581108983, 0.12425341773)}
POLE[22] = (-0.05396484015, -0.05006076266, 0.22296619562, 0.71977380243)
PENDULUM = {10: (-0.99937701225, -0.03529302776, 0.97887730598, -9.846933359)}
PENDULUM[60] = (-0.99892741442, 0.04630411416, -0.15471388400, -9.654412220)


def test_cartpole_falls_as_gymnasium_has_it():
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


def test_pendulum_swings_as_gymnasium_has_it():
    pendulum, key = jdl.environments.pendulum(), jax.random.key(0)
    state = jnp.asarray([3.0, -0.5])
    for n in range(60):
        action = pendulum.actions.done(jnp.asarray([1.5 * np.sin(n)], jnp.float32))
        state, reward, over = pendulum.step(state, action, key)
        assert not over
        if n + 1 in PENDULUM:
            np.testing.assert_allclose(
                [*pendulum.observe(state), reward], PENDULUM[n + 1], atol=2e-4
            )


def test_distributions_are_those_of_scipy():
    logits = jax.random.normal(jax.random.key(0), (6, 4))
    action, discrete = jnp.arange(6) % 4, Discrete(4)
    chances = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(
        discrete.log_prob(logits, action), np.log(chances[range(6), action]), rtol=1e-5
    )
    np.testing.assert_allclose(
        discrete.entropy(logits), scipy.stats.entropy(chances, axis=1), rtol=1e-5
    )
    drawn = jax.vmap(partial(discrete.drawn, logits[0]))(keys(4_000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4_000, chances[0], atol=0.03)

    box, policy = Box((-2.0, 0.0), (2.0, 1.0)), jax.random.normal(jax.random.key(1), (6, 4))
    normal = scipy.stats.norm(np.asarray(policy[:, :2]), np.exp(np.asarray(policy[:, 2:])))
    x = jax.random.normal(jax.random.key(2), (6, 2))
    np.testing.assert_allclose(
        box.log_prob(policy, x), normal.logpdf(np.asarray(x)).sum(1), rtol=1e-5
    )
    np.testing.assert_allclose(box.entropy(policy), normal.entropy().sum(1), rtol=1e-5)
    draws = jax.vmap(partial(box.drawn, policy[0]))(keys(4_000))
    np.testing.assert_allclose(draws.std(0), np.exp(policy[0, 2:]), rtol=0.05)
    np.testing.assert_allclose(
        box.done(jnp.asarray([[-3.0, 0.5], [1.0, -1.0]])), [[-2.0, 0.75], [2.0, 0.0]]
    )


def test_episodes_follow_each_other():
    """Row 0 goes on at every step, row 1 stays and is cut off."""
    environment = corridor()
    episodes = begin(environment, keys(2))
    found = []
    for n in range(10):
        episodes, moved = move(environment, episodes, jnp.asarray([1, 0]), keys(2, n))
        found.append(moved)
    steps = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    np.testing.assert_array_equal(steps.after[:, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4, 9])
    np.testing.assert_array_equal(np.flatnonzero(steps.over[:, 1]), [8])
    assert not steps.terminated[:, 1].any()
    assert (steps.total[4, 0], steps.length[4, 0], steps.length[8, 1]) == (10, 5, 9)
    np.testing.assert_array_equal(episodes.length, [0, 1])


def test_play_is_one_episode_a_row_by_the_best_actions():
    batch = jdl.data.arrays(episode=np.arange(7)).batches(10)[0]
    for policy, total, length in (((0.0, 1.0), 10.0, 5.0), ((1.0, 0.0), 0.0, 9.0)):
        objective = jdl.objectives.play(corridor(), Fixed(policy))
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


def test_advantages_are_sums_of_surprises_up_to_the_end_of_an_episode():
    environment, discount, trace = corridor(limit=4), 0.9, 0.8

    def choose(x, keys):
        return jax.vmap(lambda key: jax.random.bernoulli(key, 0.8).astype(jnp.int32))(keys)

    _, steps = rollout(environment, choose, begin(environment, keys(5)), keys(5, 1), 30)
    ends, terminated = np.asarray(steps.moved.over), np.asarray(steps.moved.terminated)
    assert ends.any()
    now, after = 3 * steps.x[..., 0] + 1, 3 * steps.moved.after[..., 0] + 1
    found = gae(steps, now, after, discount, trace)
    expected = np.zeros(ends.shape)
    for row in range(5):
        for t in range(30):
            weight = 1.0
            for s in range(t, 30):
                later = 0.0 if terminated[s, row] else float(after[s, row])
                surprise = float(steps.moved.reward[s, row]) + discount * later - float(now[s, row])
                expected[t, row] += weight * surprise
                weight *= discount * trace
                if ends[s, row]:
                    break
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_episode_that_is_cut_off_counts_its_value_and_one_that_ends_does_not():
    for limit, later in ((9, 0.0), (3, 0.5 * 7.0)):
        environment = corridor(limit)
        _, steps = rollout(
            environment,
            lambda x, keys: jnp.ones(len(x), jnp.int32),
            begin(environment, keys(1)),
            keys(1),
            5,
        )
        last = 4 if limit == 9 else 2
        found = gae(steps, jnp.zeros((5, 1)), jnp.full((5, 1), 7.0), 0.5, 0.0)
        assert float(found[last, 0]) == last + later


def test_reinforce_has_the_gradient_of_the_expected_return():
    """Of one step that pays 1 for action 1, with chance p: dp/d(logit) = p (1 - p)."""
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
    """The first of three steps pays by its action, the others pay nothing: none of their actions is to be credited."""
    first = Environment(
        lambda key: jnp.zeros(()),
        lambda n, action, key: (n + 1, jnp.where((n == 0) & (action == 1), 1.0, 0.0), n >= 2),
        lambda n: nn.one_hot(n.astype(jnp.int32), 3),
        Discrete(2),
        9,
    )
    objective = jdl.objectives.reinforce(first, MLP(2), discount=1.0)
    batch = jdl.data.episodes(4_000)[0]
    variables = objective.init(jax.random.key(0), batch)
    loss = lambda params: objective.loss(
        {"params": params}, batch, jax.random.key(1), True
    ).loss.value()  # noqa: E731
    kernel = jax.grad(loss)(variables["params"])["Dense_0"]["kernel"]  # (step, action)
    assert float(kernel[0, 1]) < -0.1
    np.testing.assert_array_equal(kernel[1:], 0)


LEARNERS = {  # what makes one; steps in which it learns; steps that rounding leaves alone (a drawn action may then tip)
    "reinforce": (
        lambda: jdl.descent(jdl.objectives.reinforce(corridor(), ActorCritic(2)), optax.adam(1e-2)),
        60,
        12,
    ),
    "ppo": (lambda: jdl.ppo(corridor(), ActorCritic(2), optax.adam(1e-2), horizon=16), 20, 4),
    "dqn": (
        lambda: jdl.dqn(corridor(), MLP(2, (16,)), optax.adam(1e-2), lambda step: 0.3, **SMALL),
        200,
        12,
    ),
}
SMALL = {
    "horizon": 4,
    "capacity": 256,
    "batch_size": 32,
    "begins": 5,
    "refresh": 10,
    "discount": 0.5,
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
        found = jax.tree.leaves(member(many.params, n))
        for a, b in zip(found, jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(metrics["return"].count) == sum(float(found["return"].count) for _, found in each)
    assert many.step == steps


def test_a_population_is_judged_member_by_member():
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


def test_a_memory_holds_the_newest_steps():
    """Of episodes that only go on; the place in the corridor tells the step."""
    learner = jdl.dqn(
        corridor(),
        Fixed((0.0, 1.0)),
        optax.sgd(0.0),
        lambda step: 0.0,
        horizon=3,
        capacity=24,
        begins=99,
    )
    state, metrics = trained(learner, 6, rows=2)  # 36 steps into 24 places
    places = np.arange(18) % 5  # of either row, by time
    newest = np.concatenate([np.repeat(places[12:18], 2), np.repeat(places[6:12], 2)])
    np.testing.assert_array_equal(state.opt_state.memory["x"][:, 0], newest)
    np.testing.assert_array_equal(state.opt_state.memory["after"][:, 0], newest + 1)
    np.testing.assert_array_equal(state.opt_state.memory["terminated"], newest == 4)
    np.testing.assert_array_equal(state.opt_state.memory["reward"], newest)
    assert float(metrics["loss"].count) == 0  # it has not begun to learn


def test_older_parameters_are_taken_over_now_and_then():
    learner = jdl.dqn(
        corridor(), MLP(2), optax.sgd(0.1), lambda step: 1.0, 4, 32, 8, begins=0, refresh=5
    )
    batch = jdl.data.episodes(1)[0]
    state = learner.init(jax.random.key(0), batch)
    step, before = jax.jit(learner.step), []
    for n in range(8):
        before.append(np.asarray(state.params["Dense_0"]["kernel"]))
        state, _ = step(state, batch)
        np.testing.assert_array_equal(
            state.opt_state.target["Dense_0"]["kernel"], before[n // 5 * 5]
        )
    assert not np.array_equal(before[0], before[5])


def play(environment, model):
    objective = jdl.objectives.play(environment, model)
    objective.check(jdl.data.episodes(2).spec, {})


def started(learner, rows):
    learner.init(jax.random.key(0), jdl.data.episodes(rows)[0])


REFUSED = {
    "take 2 numbers each": lambda: play(corridor(), MLP(3)),
    "take PPO": lambda: jdl.dqn(
        jdl.environments.pendulum(), MLP(2), optax.sgd(1.0), lambda step: 0.0
    ),
    "do not divide the capacity": lambda: started(
        jdl.dqn(corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, capacity=25), 3
    ),
    "capacity=0": lambda: jdl.dqn(corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, capacity=0),
    "no multiple of the 7": lambda: started(
        jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), minibatches=7), 2
    ),
    "clip=0": lambda: jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), clip=0),
    "such as ActorCritic": lambda: trained(
        jdl.ppo(corridor(), MLP(2), optax.sgd(1.0), minibatches=1), 1
    ),
    "discount": lambda: jdl.objectives.reinforce(corridor(), MLP(2), discount=1.5),
    "at least 1, and 0": lambda: jdl.data.episodes(0),
    "different whole numbers": lambda: jdl.population(LEARNERS["dqn"][0](), (1, 1)),
}


@pytest.mark.parametrize("told", REFUSED)
def test_refuses(told):
    with pytest.raises(Error, match=told):
        REFUSED[told]()
