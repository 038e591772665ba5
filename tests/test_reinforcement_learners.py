"""Learners of reinforcement learning: REINFORCE, PPO, DQN and SAC, and populations of them.

Seen to fail: a replay buffer written at one place, a population of one seed many times, and
arguments of REINFORCE, Discrete and Box that nothing checked.
"""

import jax
import numpy as np
import optax
import pytest
from reinforcement_harness import corridor, train

import jdl
from jdl.environments import Box, Discrete
from jdl.learners import PrioritizedReplay, jit_learner, member, with_data
from jdl.metrics import PerMember, scalars
from jdl.models.actor_critic import ActorCritic, RecurrentActorCritic
from jdl.models.mlp import MLP
from jdl.models.q_network import Dueling
from jdl.parallel import build_mesh, shard_data, shard_learner
from jdl.train.fit import FIGURES
from jdl.types import Error, Mean

# A function that makes the learner; steps in which it learns; steps after which rounding has not
# changed a sampled action yet.
LEARNERS = {
    "reinforce": (
        lambda: jdl.descent(jdl.objectives.reinforce(corridor(), ActorCritic(2)), optax.adam(1e-2)),
        60,
        12,
    ),
    "ppo": (lambda: jdl.ppo(corridor(), ActorCritic(2), optax.adam(1e-2), num_steps=16), 20, 4),
    "ppo-recurrent": (
        lambda: jdl.ppo(
            corridor(), RecurrentActorCritic(2, MLP(8), 16), optax.adam(1e-2), num_steps=16
        ),
        20,
        4,
    ),
    "dqn": (
        lambda: jdl.dqn(corridor(), MLP(2, (16,)), optax.adam(1e-2), lambda step: 0.3, **SMALL),
        200,
        12,
    ),
    "dqn-rainbow": (
        lambda: jdl.dqn(
            corridor(),
            Dueling(2, MLP(16)),
            optax.adam(1e-2),
            lambda step: 0.3,
            **SMALL,
            double=True,
            prioritized=PrioritizedReplay(optax.linear_schedule(0.4, 1.0, 100)),
        ),
        200,
        8,
    ),
    "sac": (
        lambda: jdl.sac(
            corridor(continuous=True), MLP(2, (16,)), MLP(1, (16,)), optax.adam(1e-2), **SOFT
        ),
        150,
        8,
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
SOFT = {
    "num_steps": 4,
    "num_updates": 2,
    "buffer_size": 256,
    "batch_size": 32,
    "learning_starts": 5,
    "gamma": 0.5,
    "tau": 0.05,
}


SLOW = {"ppo-recurrent"}  # to compile; tests/test_recurrent_policy.py trains one in each run


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in LEARNERS],
    scope="module",
)
def case(request):
    """A learner, which the tests share, and the two numbers of steps."""
    make, *steps = LEARNERS[request.param]
    return make(), *steps


@pytest.mark.slow
def test_learns_to_reach_the_end(case):
    learner, steps, _ = case
    state, _ = train(learner, steps)
    out = learner.objective.loss(
        learner.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(2), False
    )
    assert scalars(out.metrics) == {"return": 10.0, "length": 5.0}


@pytest.mark.slow
def test_a_member_of_a_population_learns_as_its_seed_does_alone(case):
    learner, _, steps = case
    many, metrics = train(jdl.population(learner, (3, 0, 8)), steps, seed=99)
    each = [train(learner, steps, seed=seed) for seed in (3, 0, 8)]
    for n, (alone, _) in enumerate(each):
        params = jax.tree.leaves(member(many.params, n))
        for a, b in zip(params, jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(metrics["return"].count) == sum(
        float(metrics["return"].count) for _, metrics in each
    )
    assert many.step == steps


def test_a_run_is_without_figures_of_the_column_x(tmp_path):
    learner = LEARNERS["dqn"][0]()
    run = jdl.Run(jdl.Config(), learner, jdl.data.episodes(1), test=jdl.data.episodes(2))
    variables = learner.eval_variables(learner.init(jax.random.key(0), run.train[0]))
    assert [path for draw in FIGURES for path in draw(run, variables, tmp_path)] == []


@pytest.mark.slow
def test_several_devices_compute_what_one_computes(case):
    learner, _, steps = case
    alone, metrics = train(learner, steps)
    mesh = build_mesh("data=2,fsdp=2")
    data = shard_data(jdl.data.episodes(4), mesh)
    divided = jit_learner(shard_learner(with_data(learner, data), mesh))
    state = divided.init(jax.random.key(0), data[0])
    for _, raw in zip(range(steps), data.read(), strict=False):
        state, divided_metrics = divided.step(state, raw)
    # The policy loss is a mean of terms near 1 that cancel, to 0.014 or to 8e-5: 1e-4 of it would
    # be less than float32 can hold (docs/agreement.md).
    assert scalars(divided_metrics) == pytest.approx(
        scalars(metrics), rel=1e-4, abs=3e-6, nan_ok=True
    )
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_population_is_evaluated_member_by_member():
    learner = jdl.population(LEARNERS["ppo"][0](), (0, 1))
    state, _ = train(learner, 1)
    batch = jdl.data.episodes(3)[0]
    out = learner.objective.loss(learner.eval_variables(state), batch, jax.random.key(2), False)
    numbers = scalars(
        {"loss": out.loss, **out.metrics, "more": PerMember((Mean(2.0, 1.0), Mean(6.0, 2.0)))}
    )
    assert numbers["loss"] == -numbers["return/mean"]
    assert numbers["return/min"] <= numbers["return/mean"] <= numbers["return/max"]
    assert [numbers[f"more/{name}"] for name in ("mean", "min", "max")] == [2.5, 2.0, 3.0]


@pytest.mark.parametrize("members", [1, 3, 5, 8, 10])
def test_the_interquartile_mean_is_scipys(members):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(members).standard_cauchy(members)
    metric = PerMember(tuple(Mean(value, 1.0) for value in values))
    expected = stats.trim_mean(values, 0.25)
    assert scalars({"x": metric})["x/iqm"] == pytest.approx(expected, rel=1e-5)
    unknown = PerMember((Mean(np.nan, 1.0), *metric.members[1:]))
    assert np.isnan(scalars({"x": unknown})["x/iqm"])


@pytest.mark.slow
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
    "use SAC or PPO": lambda: jdl.dqn(
        jdl.environments.pendulum(), MLP(2), optax.sgd(1.0), lambda step: 0.0
    ),
    "do not divide the buffer_size": lambda: init(
        jdl.dqn(corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, buffer_size=25, batch_size=5),
        3,
    ),
    "which DQN does not support": lambda: jdl.dqn(
        corridor(), RecurrentActorCritic(2, MLP(4)), optax.sgd(1.0), lambda step: 0.0
    ),
    "which REINFORCE does not support": lambda: jdl.objectives.reinforce(
        corridor(), RecurrentActorCritic(2, MLP(4))
    ),
    "which SAC does not support": lambda: jdl.sac(
        corridor(continuous=True), RecurrentActorCritic(2, MLP(4)), MLP(1), optax.sgd(1.0)
    ),
    "prioritized takes": lambda: jdl.dqn(
        corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, prioritized=True
    ),
    "buffer of 25 transitions is smaller than the batch_size of 128": lambda: jdl.dqn(
        corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, buffer_size=25
    ),
    "buffer_size=0": lambda: jdl.dqn(
        corridor(), MLP(2), optax.sgd(1.0), lambda step: 0.0, buffer_size=0
    ),
    "6 parallel environments are no multiple of the 4": lambda: init(
        jdl.ppo(corridor(), RecurrentActorCritic(2, MLP(4)), optax.sgd(1.0)), 6
    ),
    "no multiple of the 7": lambda: init(
        jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), num_minibatches=7), 2
    ),
    "Minibatches of one transition": lambda: init(
        jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), 2, num_minibatches=4), 2
    ),
    "clip_eps=0": lambda: jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), clip_eps=0),
    "such as ActorCritic": lambda: train(
        jdl.ppo(corridor(), MLP(2), optax.sgd(1.0), num_minibatches=1), 1
    ),
    "gamma, the discount factor": lambda: jdl.objectives.reinforce(corridor(), MLP(2), gamma=1.5),
    "gamma must be a number, not '0.9'": lambda: jdl.objectives.reinforce(
        corridor(), MLP(2), gamma="0.9"
    ),
    "value_coef must be a number": lambda: jdl.objectives.reinforce(
        corridor(), MLP(2), value_coef=None
    ),
    "a whole number from 1, not 0": lambda: Discrete(0),
    "a whole number from 1, not 2.0": lambda: Discrete(2.0),
    "numbers for each, .* not -1.0": lambda: Box(-1.0, 1.0),
    r"numbers for each, .* not \(\)": lambda: Box((), ()),
    "must be finite, .* not .inf": lambda: Box((0.0,), (float("inf"),)),
    "numbers for each, .* not .'0'": lambda: Box(("0",), (1.0,)),
    "low up to its high": lambda: Box((0.0, 0.0), (1.0, -1.0)),
    "low up to its high, not .0.0, 0.0. and .1.0,": lambda: Box((0.0, 0.0), (1.0,)),
    "at least 1, not 0": lambda: jdl.data.episodes(0),
    "different whole numbers": lambda: jdl.population(LEARNERS["dqn"][0](), (1, 1)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(Error, match=message):
        REFUSED[message]()
