"""Replay of Gymnasium's environments: each state is exact, wherever it continues, and costs a step.

Seen to fail, by one line of the adapter changed each time: seeds that depend on the object; a
replay without the last action; a copy cached by its seed and number of steps, by its actions, or
by its seed alone; a copy that stays at the snapshot it has left (evaluation then changes
training); copies that are never reused, earlier snapshots dropped, room for too few (all replay);
a call for each row.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reinforcement_harness import keys, trained

import jdl
from jdl.environments import from_gymnasium, reset_episodes, rollout
from jdl.environments.gymnasium_adapter import ReplayCache
from jdl.metrics import scalars
from jdl.models.actor_critic import ActorCritic


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def ppo(environment=None, **options):
    environment = environment or from_gymnasium("Walk-v0")
    return jdl.ppo(
        environment,
        ActorCritic(3),
        optax.adam(1e-2),
        num_steps=16,
        update_epochs=2,
        num_minibatches=2,
        **options,
    )


def test_an_observation_does_not_depend_on_earlier_calls(walk):
    """Of episodes that branch from one start, observed in any order; the cache is too small."""
    environment = from_gymnasium("Walk-v0")
    states = [environment.reset(jax.random.key(0))]
    for n in range(100):
        state = states[n // 2]
        states.append(environment.step(state, jnp.asarray(n % 2 * 2), jax.random.key(n))[0])
    expected = [np.asarray(environment.observe(state)) for state in states]
    assert len(np.unique(np.stack(expected), axis=0)) == 101
    again = from_gymnasium("Walk-v0")
    for n in np.random.default_rng(0).permutation(np.repeat(np.arange(101), 3)):
        np.testing.assert_array_equal(again.observe(states[n]), expected[n])


@pytest.mark.slow
def test_a_state_continues_with_a_new_environment_to_the_bit(walk):
    whole, stopped = trained(ppo(), 6), trained(ppo(), 3)
    lengths = np.asarray(stopped.extra["episodes"].episode_length)
    assert (lengths > 0).any()  # in the middle of episodes
    assert_equal(trained(ppo(), 3, jax.tree.map(jnp.array, stopped)), whole)


@pytest.mark.slow
def test_evaluation_changes_nothing(walk):
    learner, batch = ppo(), jdl.data.episodes(4)[0]
    loss = jax.jit(learner.objective.loss, static_argnums=3)
    alone, evaluated, returns = trained(learner, 5), trained(learner, 0), []
    for _ in range(5):
        returns.append(
            loss(learner.eval_variables(evaluated), batch, jax.random.key(7), False).loss
        )
        evaluated = trained(learner, 1, evaluated)
    assert_equal(evaluated, alone)
    again = loss(learner.eval_variables(trained(ppo(), 0)), batch, jax.random.key(7), False).loss
    assert_equal(returns[0], again)
    assert len({float(loss.total) for loss in returns}) > 1


def test_copies_are_stepped_and_not_replayed(walk):
    """A step costs a step, and only a new episode a reset; also where no observation is read."""
    environment, rows, length = from_gymnasium("Walk-v0", push=0.0, max_episode_steps=300), 6, 200
    for reads_obs in (True, False):
        episodes = reset_episodes(environment, keys(rows))
        walk.reset_counts()

        def select_action(obs, keys, reads_obs=reads_obs):
            return (obs[:, 0] > 0).astype(jnp.int32) if reads_obs else jnp.zeros(rows, jnp.int32)

        run = partial(rollout, environment, select_action, episodes, keys(rows, 1), length)
        ends = jax.jit(lambda run=run: run()[1].done)()
        assert rows * length - 10 * rows <= walk.steps <= rows * length
        assert walk.resets <= rows + int(ends.sum())
        assert walk.copies <= 64
    states = [environment.reset(jax.random.key(5))]
    walk.reset_counts()
    for _ in range(2):  # an earlier snapshot as well
        obs = environment.observe(states[0])
        states.append(environment.step(states[0], jnp.asarray(1), jax.random.key(6))[0])
    np.testing.assert_array_equal(environment.observe(states[0]), obs)
    assert (walk.resets, walk.steps) == (1, 1)


@pytest.mark.slow
def test_a_population_calls_the_host_once_for_all_rows(walk, monkeypatch):
    shapes, look_up_rows = [], ReplayCache._look_up_rows

    def recorded(self, *arguments):
        shapes.append(arguments[2].shape)
        return look_up_rows(self, *arguments)

    monkeypatch.setattr(ReplayCache, "_look_up_rows", recorded)
    many = jdl.population(ppo(), (3, 0))
    state = trained(many, 2)
    assert set(shapes) == {(2, 4)}
    assert len(shapes) <= 1 + 2 * 3 * 16  # obs, reward and next_obs in each step of the rollouts
    out = many.objective.loss(
        many.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(1), False
    )
    assert scalars(out.metrics)["length/min"] > 0
    one = trained(ppo(), 0).extra["episodes"].env_state["seed"]
    assert state.extra["episodes"].env_state["seed"].shape == (2, *one.shape)


@pytest.mark.slow
def test_training_in_gymnasiums_cartpole_continues_to_the_bit():
    pytest.importorskip("gymnasium")

    def learner():
        return jdl.ppo(
            from_gymnasium("CartPole-v1"), ActorCritic(2), optax.adam(1e-2), num_steps=32
        )

    assert_equal(trained(learner(), 2, trained(learner(), 2)), trained(learner(), 4))
