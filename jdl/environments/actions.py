"""Action spaces, discrete and continuous, and the policy's distribution over each."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from numbers import Integral, Real

import jax
import jax.numpy as jnp

from jdl.types import Array, Error, Key

LOG_STD_RANGE = -20.0, 2.0  # of a squashed Gaussian, as in the authors' code of SAC


@dataclass(frozen=True)
class Discrete:
    """A discrete action space: the actions 0 to `n` - 1.

    The policy (..., n) is the logits of a categorical distribution, or the actions' Q-values.
    """

    n: int

    def __post_init__(self) -> None:
        """Raises `Error` where `n` is no number of actions."""
        if not isinstance(self.n, Integral) or self.n < 1:
            raise Error(
                f"Discrete(n) takes the number of actions, a whole number from 1, not {self.n!r}."
            )

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

    def __post_init__(self) -> None:
        """Raises `Error` where `low` and `high` are no bounds."""
        for bound in (self.low, self.high):
            numbers = isinstance(bound, tuple) and all(isinstance(x, Real) for x in bound)
            if not numbers or not bound or not all(map(math.isfinite, bound)):
                raise Error(
                    "Box(low, high) takes a tuple of numbers for each, such as Box((-1.0,), "
                    "(1.0,)), which must be finite, as actions are scaled to them: choose bounds "
                    f"for actions that have none, not {bound!r}."
                )
        if len(self.low) != len(self.high) or not all(map(operator.le, self.low, self.high)):
            raise Error(
                f"Each number of Box(low, high) must have a low up to its high, not {self.low} and "
                f"{self.high}."
            )

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


@dataclass(frozen=True)
class SquashedBox(Box):
    """A continuous action space whose policy is a squashed Gaussian (Haarnoja et al., 2018).

    The policy (..., 2n) is the means, then the logs of the standard deviations, of n independent
    normal distributions, of which the normalized actions are the tanh: none is beyond -1 or 1.
    """

    def mode(self, policy: Array) -> Array:
        """The tanh of the mean, normalized: (..., 2n) to (..., n)."""
        return jnp.tanh(super().mode(policy))

    def sample(self, policy: Array, key: Key) -> Array:
        """A sampled action, normalized: (..., 2n) to (..., n)."""
        return jnp.tanh(super().sample(clip_log_std(policy), key))

    def sample_and_log_prob(self, policy: Array, key: Key) -> tuple[Array, Array]:
        """A sampled action (..., n), and the log of its probability density (...)."""
        policy = clip_log_std(policy)
        before_tanh = super().sample(policy, key)
        return jnp.tanh(before_tanh), self._log_prob(policy, before_tanh)

    def log_prob(self, policy: Array, action: Array) -> Array:
        """The log of the probability density (...) at the normalized `action` (..., n)."""
        inside = action.clip(-1 + 1e-6, 1 - 1e-6)  # the tanh of large numbers is rounded to 1
        return self._log_prob(clip_log_std(policy), jnp.arctanh(inside))

    def entropy(self, policy: Array) -> Array:
        """Raises `Error`: it has no closed form."""
        raise Error(
            "The entropy of a squashed Gaussian has no closed form: estimate it by the mean of "
            "-log_prob over sampled actions, as SAC does, or use a Box."
        )

    def _log_prob(self, policy: Array, before_tanh: Array) -> Array:
        """The normal density minus the log of tanh's slope, 1 - tanh^2, in a form that is exact."""
        log_slope = 2 * (math.log(2) - before_tanh - jax.nn.softplus(-2 * before_tanh))
        return super().log_prob(policy, before_tanh) - log_slope.sum(-1)


def clip_log_std(policy: Array) -> Array:
    """The policy (..., 2n) with standard deviations that are neither 0 nor huge."""
    mean, log_std = jnp.split(policy, 2, -1)
    return jnp.concatenate([mean, log_std.clip(*LOG_STD_RANGE)], -1)
