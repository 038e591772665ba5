"""Kinds of actions, and the distributions over them that a policy describes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.types import Array, Key


@dataclass(frozen=True)
class Discrete:
    """The actions 0 to `count` - 1, which a policy (..., count) gives logits, or values."""

    count: int

    @property
    def parameters(self) -> int:
        """How many numbers a policy is."""
        return self.count

    def best(self, policy: Array) -> Array:
        """The action of the greatest logit: (..., count) to (...)."""
        return policy.argmax(-1)

    def drawn(self, policy: Array, key: Key) -> Array:
        """An action by its probability: (..., count) to (...)."""
        return jax.random.categorical(key, policy)

    def log_prob(self, policy: Array, action: Array) -> Array:
        """The log of the probability of `action` (...), (...)."""
        return jnp.take_along_axis(jax.nn.log_softmax(policy), action[..., None], -1)[..., 0]

    def entropy(self, policy: Array) -> Array:
        """In nats, (...)."""
        logs = jax.nn.log_softmax(policy)
        return -(jnp.exp(logs) * logs).sum(-1)

    def done(self, action: Array) -> Array:
        """What the environment is given."""
        return action


@dataclass(frozen=True)
class Box:
    """Actions of as many numbers as `low` and `high` have, each between the two.

    A policy (..., 2n) is the means, where -1 is `low` and 1 is `high`, and the logs of the standard deviations, of
    normal distributions; what they draw beyond -1 and 1 is done as -1 and 1.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def parameters(self) -> int:
        """How many numbers a policy is."""
        return 2 * len(self.low)

    def best(self, policy: Array) -> Array:
        """The means: (..., 2n) to (..., n)."""
        return policy[..., : len(self.low)]

    def drawn(self, policy: Array, key: Key) -> Array:
        """A draw: (..., 2n) to (..., n)."""
        mean, log_std = jnp.split(policy, 2, -1)
        return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)

    def log_prob(self, policy: Array, action: Array) -> Array:
        """The log of the density at `action` (..., n), (...)."""
        mean, log_std = jnp.split(policy, 2, -1)
        scaled = (action - mean) * jnp.exp(-log_std)
        return -(0.5 * jnp.square(scaled) + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, policy: Array) -> Array:
        """In nats, (...)."""
        return (policy[..., len(self.low) :] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def done(self, action: Array) -> Array:
        """What the environment is given."""
        low, high = (
            jnp.broadcast_to(jnp.asarray(end, action.dtype), action.shape)
            for end in (self.low, self.high)
        )
        return low + (action.clip(-1, 1) + 1) / 2 * (high - low)
