"""Learners of reinforcement learning: REINFORCE, PPO and DQN, and populations of them.

Seen to fail: a replay buffer written at one place, a population of one seed many times.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reinforcement_harness import Fixed, corridor, train

import jdl
from jdl.learners import member
from jdl.metrics import PerMember, scalars
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
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


def test_learns_to_reach_the_end(case):
    make, steps, _ = LEARNERS[case]
    learner = make()
    state, _ = train(learner, steps)
    out = learner.objective.loss(
        learner.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(2), False
    )
    assert scalars(out.metrics) == {"return": 10.0, "length": 5.0}


def test_a_member_of_a_population_learns_as_its_seed_does_alone(case):
    make, _, steps = LEARNERS[case]
    many, metrics = train(jdl.population(make(), (3, 0, 8)), steps, seed=99)
    each = [train(make(), steps, seed=seed) for seed in (3, 0, 8)]
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
    state, _ = train(learner, 1)
    batch = jdl.data.episodes(3)[0]
    out = learner.objective.loss(learner.eval_variables(state), batch, jax.random.key(2), False)
    numbers = scalars(
        {"loss": out.loss, **out.metrics, "more": PerMember((Mean(2.0, 1.0), Mean(6.0, 2.0)))}
    )
    assert numbers["loss"] == -numbers["return/mean"]
    assert numbers["return/min"] <= numbers["return/mean"] <= numbers["return/max"]
    assert [numbers[f"more/{name}"] for name in ("mean", "min", "max")] == [2.5, 2.0, 3.0]


def moving_on(**options):
    """DQN in the corridor by a policy that only moves on, with a replay buffer of 24 places."""
    policy = Fixed((0.0, 1.0))
    return jdl.dqn(corridor(), policy, optax.sgd(0.0), lambda step: 0.0, buffer_size=24, **options)


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
    buffer = learner.add_to_buffer(state, transitions)
    np.testing.assert_array_equal(buffer["next_obs"][16:], 0)
    assert (np.asarray(buffer["next_obs"][8:16]) > 0).all()
    sampled = learner.sample_indices(state, transitions, jax.random.key(2))
    assert set(np.asarray(sampled).tolist()) == set(range(24))


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
    "Minibatches of one transition": lambda: init(
        jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), 2, num_minibatches=4), 2
    ),
    "clip_eps=0": lambda: jdl.ppo(corridor(), ActorCritic(2), optax.sgd(1.0), clip_eps=0),
    "such as ActorCritic": lambda: train(
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
