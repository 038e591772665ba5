"""Action spaces, discrete and continuous, and the policy's distribution over each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.types import Array, Key


@dataclass(frozen=True)
class Discrete:
    """A discrete action space: the actions 0 to `n` - 1.

    The policy (..., n) is the logits of a categorical distribution, or the actions' Q-values.
    """

    n: int

    @property
    def num_params(self) -> int:
        """The number of distribution parameters that a policy gives for an observation."""
        return self.n

    def mode(self, policy: Array) -> Array:
        """The greedy action, that with the largest logit: (..., n) to (...)."""
        return policy.argmax(-1)

    def sample(self, policy: Array, key: Key) -> Array:
        """A sampled action: (..., n) to (...)."""
        return jax.random.categorical(key, policy)

    def log_prob(self, policy: Array, action: Array) -> Array:
        """The log-probability (...) of `action` (...)."""
        return jnp.take_along_axis(jax.nn.log_softmax(policy), action[..., None], -1)[..., 0]

    def entropy(self, policy: Array) -> Array:
        """The entropy of the distribution in nats, (...)."""
        logs = jax.nn.log_softmax(policy)
        return -(jnp.exp(logs) * logs).sum(-1)

    def unnormalize(self, action: Array) -> Array:
        """The action as the environment takes it: here unchanged."""
        return action


@dataclass(frozen=True)
class Box:
    """A continuous action space: n numbers, each between its `low` and its `high`.

    The policy (..., 2n) is the means, then the logs of the standard deviations, of n independent
    normal distributions. They are those of normalized actions, where -1 stands for `low` and 1 for
    `high`; actions beyond these are clipped.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def num_params(self) -> int:
        """The number of distribution parameters that a policy gives for an observation."""
        return 2 * len(self.low)

    def mode(self, policy: Array) -> Array:
        """The mean action, normalized: (..., 2n) to (..., n)."""
        return policy[..., : len(self.low)]

    def sample(self, policy: Array, key: Key) -> Array:
        """A sampled action, normalized: (..., 2n) to (..., n)."""
        mean, log_std = jnp.split(policy, 2, -1)
        return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)

    def log_prob(self, policy: Array, action: Array) -> Array:
        """The log of the probability density (...) at the normalized `action` (..., n)."""
        mean, log_std = jnp.split(policy, 2, -1)
        scaled = (action - mean) * jnp.exp(-log_std)
        return -(0.5 * jnp.square(scaled) + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, policy: Array) -> Array:
        """The entropy of the distribution in nats, (...)."""
        return (policy[..., len(self.low) :] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def unnormalize(self, action: Array) -> Array:
        """The action as the environment takes it: clipped, and scaled to `low` and `high`."""
        low, high = (
            jnp.broadcast_to(jnp.asarray(bound, action.dtype), action.shape)
            for bound in (self.low, self.high)
        )
        return low + (action.clip(-1, 1) + 1) / 2 * (high - low)
