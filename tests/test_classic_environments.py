"""CartPole and Pendulum against those of Gymnasium and gymnax.

Seen to fail: a fallen pole that goes on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reinforcement_harness import keys

import jdl
from jdl.environments import from_gymnasium, from_gymnax, reset_episodes, rollout

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
