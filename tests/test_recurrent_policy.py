"""Recurrent policies: their memory in rollouts, in PPO's updates and in evaluation.

Seen to fail: states that are not reset in the rollout, or in the sequences of the updates;
sequences that begin with zeros instead of the states before the rollout; next values by the states
before the step; states that are lost between the steps of an evaluation.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reinforcement_harness import train, trained

import jdl
from jdl.environments import Discrete, Environment
from jdl.layers import LSTM
from jdl.metrics import scalars
from jdl.models.actor_critic import RecurrentActorCritic
from jdl.models.mlp import MLP
from jdl.types import Error


def recall():
    """A cue of -1 or 1 is seen at first, then zeros; the action of the last step is to be it.

    An episode has two, three or four steps.
    """

    def step(state, action, key):
        cue, time, last = state
        right = (action == 1) == (cue > 0)
        done = time == last
        return (cue, time + 1, last), jnp.where(done & right, 1.0, 0.0), done

    def observe(state):
        cue, time, _ = state
        return jnp.where(time == 0, cue, 0.0)[None]

    def reset(key):
        cue, last = jax.random.split(key)
        time = jnp.zeros((), jnp.int32)
        return jax.random.rademacher(cue, (), jnp.float32), time, jax.random.randint(last, (), 1, 4)

    return Environment(reset, step, observe, Discrete(2), 9)


def make_learner():
    """PPO of a policy that has to remember the cue."""
    rate = optax.linear_schedule(0.02, 0.0, 60 * 16)
    model = RecurrentActorCritic(2, MLP(8), 8, LSTM)
    return jdl.ppo(recall(), model, optax.adam(rate), num_steps=16)


@pytest.fixture(scope="module")
def learner():
    return make_learner()


def step_by_step(learner, params, states, transitions):
    """Log-probabilities and values (T, B), and the states after each step, one step at a time."""
    space, steps = learner.environment.action_space, transitions

    def step(states, now):
        obs, action, done = now
        start = jnp.zeros((len(obs), 1), bool)
        (policy, value), states = learner.model.apply(
            {"params": params}, obs[:, None], start, states
        )
        result = space.log_prob(policy[:, 0], action), value[:, 0], states
        return tuple(jnp.where(done[:, None], 0, leaf) for leaf in states), result

    return jax.lax.scan(step, states, (steps.obs, steps.action, steps.done))


@pytest.mark.slow
def test_rollout_and_updates_give_the_same_probabilities_and_values(learner):
    @jax.jit
    def both_ways(state):
        extra, first = learner.collect_rollout(state, jax.random.key(1))
        before = state.extra["policy_state"]
        after, one_by_one = step_by_step(learner, state.params, before, first)
        next_value = learner.next_values(state.params, first)
        rows = learner.training_rows(state, first)
        return before, first, extra["policy_state"], rows, next_value, after, one_by_one

    out = jax.tree.map(np.asarray, both_ways(train(learner, 2)[0]))
    before, first, last, rows, next_value, after, (log_prob, value, states) = out
    assert np.abs(before[0]).sum(1).max() > 0  # the rollout begins within episodes
    assert 0 < first.done[:-1].sum() < first.done.size / 2
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(rows["log_prob"], log_prob.T)
    close(rows["value"], value.T)
    jax.tree.map(close, first.policy_state, states)
    jax.tree.map(close, last, after)
    goes_on = ~first.done[:-1]
    close(next_value[:-1][goes_on], value[1:][goes_on])


@pytest.mark.slow
def test_remembers_what_it_has_seen(learner):
    """And a learner that is made anew goes on from a state's arrays, to the bit."""
    whole = trained(learner, 60)
    batch, loss = jdl.data.episodes(50)[0], jax.jit(learner.objective.loss, static_argnums=3)
    out = loss(learner.eval_variables(whole), batch, jax.random.key(2), False)
    assert scalars(out.metrics)["return"] == 1.0
    paused = trained(learner, 31)
    assert paused.extra["policy_state"][0].any()  # within episodes
    resumed = trained(make_learner(), 29, paused)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    x = jnp.asarray([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])[..., None]
    actions = learner.objective.predict(learner.eval_variables(whole), {"x": x})["action"]
    np.testing.assert_array_equal(actions[:, 1:], [[1, 1], [0, 0]])


class WithoutStates(RecurrentActorCritic):
    """A recurrent policy that does not give its states."""

    def __call__(self, x, start, states, train=False):
        return super().__call__(x, start, states, train)[0]


def test_refuses_what_gives_no_states():
    objective = jdl.objectives.episode_return(recall(), WithoutStates(2, MLP(4), 4))
    with pytest.raises(Error, match="is to give"):
        objective.check(jdl.data.episodes(2).spec, {})
