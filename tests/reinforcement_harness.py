"""How tests do reinforcement learning: a corridor, a fixed policy, some training steps."""

from functools import cache

import jax
import jax.numpy as jnp
from flax import linen as nn

import jdl
from jdl.environments import Box, Discrete, Environment


def corridor(max_episode_steps=9, continuous=False):
    """Places from 0: action 1 moves on, with the place it leaves as reward; 0 stays; 5 ends it.

    Continuous actions move on if they are above 0.
    """
    space = Box((-1.0,), (1.0,)) if continuous else Discrete(2)

    def step(state, action, key):
        moves = action[0] > 0 if continuous else action == 1
        place = state + moves.astype(jnp.float32)
        return place, jnp.where(moves, state, 0.0), place >= 5

    return Environment(
        lambda key: jnp.zeros(()), step, lambda state: state[None], space, max_episode_steps
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


@cache
def compiled(learner):
    """The compiled `init` and `step` of a learner, for all its trainings."""
    return jax.jit(learner.init), jax.jit(learner.step)


def train(learner, steps, state=None, seed=0, rows=4):
    """Training steps, from a state or from the start; the state and the last metrics."""
    batch, (init, step), metrics = jdl.data.episodes(rows)[0], compiled(learner), None
    state = init(jax.random.key(seed), batch) if state is None else state
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


def trained(learner, steps, state=None):
    return jax.block_until_ready(train(learner, steps, state)[0])
