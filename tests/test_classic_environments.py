"""CartPole against those of gymnax and Gymnasium, where these are installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reinforcement_harness import keys

import jdl
from jdl.environments import from_gymnasium, from_gymnax, reset_episodes, rollout


@pytest.mark.parametrize("library", ["gymnax", "gymnasium"])
def test_cartpole_of_each_library_is_ours(library):
    pytest.importorskip(library)
    other = from_gymnax("CartPole-v1") if library == "gymnax" else from_gymnasium("CartPole-v1")
    ours = jdl.environments.cartpole()
    assert (other.action_space, other.max_episode_steps) == (
        ours.action_space,
        ours.max_episode_steps,
    )
    step, our_step = jax.jit(other.step), jax.jit(ours.step)
    for start in range(3):
        state, fallen, n = other.reset(jax.random.key(start)), False, 0
        assert float(jnp.abs(other.observe(state)).max()) <= 0.05
        while not fallen:
            x, action = other.observe(state), jnp.asarray(n * n // 3 % 2)
            state, reward, fallen = step(state, action, jax.random.key(n))
            expected, our_reward, our_end = our_step(x, action, jax.random.key(n))
            np.testing.assert_allclose(other.observe(state), expected, atol=1e-5)
            assert (float(reward), bool(fallen)) == (float(our_reward), bool(our_end))
            n += 1
        assert 5 < n < 100


@pytest.mark.parametrize("library", ["gymnax", "gymnasium"])
def test_cartpole_of_each_library_is_truncated_at_its_limit(library):
    """By a policy that holds the pole."""
    pytest.importorskip(library)
    other = from_gymnax("CartPole-v1") if library == "gymnax" else from_gymnasium("CartPole-v1")

    def hold(obs, keys):
        return (obs @ jnp.asarray([0.1, 0.3, 1.0, 0.6]) > 0).astype(jnp.int32)

    episodes = reset_episodes(other, keys(2))
    _, steps = jax.jit(lambda: rollout(other, hold, episodes, keys(2, 1), 501))()
    assert not steps.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(steps.done[:, 0]), [499])
    assert steps.episode_return[499, 0] == 500
