"""Episodes of an environment: how they follow each other, and the return of one.

Seen to fail: a later episode that counts in the return.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reinforcement_harness import Fixed, corridor, keys

import jdl
from jdl.environments import Discrete, Environment, reset_episodes, step_episodes
from jdl.metrics import scalars


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


@pytest.mark.slow
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
