"""Reinforcement learning environments as pure functions, and rollouts of their episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.environments.actions import Box, Discrete
from jdl.types import Array, Error, Key

SelectAction = Callable[[Array, Key], Array]  # (obs (B, ...), keys (B,)) -> actions (B, ...)
Act = Callable[[Array, Key, Any], tuple[Array, Any]]  # (obs, keys, states) -> (actions, states)


@dataclass(frozen=True)
class Environment:
    """An environment for reinforcement learning: three pure functions of one episode.

    `reset(key) -> state`, where the state is any tree of arrays; `step(state, action, key) ->
    (state, reward, terminated)`, with a reward () and a bool (); `observe(state) -> obs`, of
    float32. An episode that does not terminate is truncated after `max_episode_steps` steps.
    The terms are Gymnasium's, whose `step` also returns the observation and has side effects.
    """

    reset: Callable[[Key], Any]
    step: Callable[[Any, Array, Key], tuple[Any, Array, Array]]
    observe: Callable[[Any], Array]
    action_space: Discrete | Box
    max_episode_steps: int

    def __post_init__(self) -> None:
        """Raises `Error` for a wrong action space or limit; see also `check_environment`."""
        for name in ("reset", "step", "observe"):
            if not callable(function := getattr(self, name)):
                raise Error(f"An environment's {name} must be a function, not {function!r}.")
        if not isinstance(self.action_space, Discrete | Box):
            raise Error(
                "An environment's action_space must be jdl.environments.Discrete(n), for n "
                f"actions, or Box(low, high), not {self.action_space!r}."
            )
        limit = self.max_episode_steps
        if not isinstance(limit, int | np.integer) or limit < 1:
            raise Error(
                f"An environment's max_episode_steps must be a whole number from 1 on, not "
                f"{limit!r}: episodes that did not terminate are truncated after so many steps."
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Episodes:
    """Episodes in progress, one in each row of a batch: a vectorized environment's state."""

    env_state: Any  # of the environment, with a leading axis for the rows
    episode_length: Array  # (B,) of int32: steps so far
    episode_return: Array  # (B,): the sum of the rewards so far


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepResult:
    """The result of a step of the environment, with leading axes (B,) for the episodes.

    `next_obs`, `episode_length` and `episode_return` are those after the step and before the reset
    of an episode that is done.
    """

    next_obs: Array
    reward: Array
    terminated: Array  # bool: ended by the environment, so that no reward can follow
    done: Array  # bool: terminated, or truncated after `max_episode_steps`
    episode_length: Array
    episode_return: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transition(StepResult):
    """A transition: an observation, the action taken there, and what the step returned.

    The transitions of a rollout have leading axes (T, B): T steps of B episodes.
    """

    obs: Array
    action: Array  # as the policy chose it, before `action_space.unnormalize`
    policy_state: Any = ()  # of a recurrent policy, after it has seen `obs`


def reset_episodes(environment: Environment, keys: Key) -> Episodes:
    """New episodes before their first step, one for each of `keys` (B,)."""
    states = jax.vmap(environment.reset)(keys)
    return Episodes(states, jnp.zeros(len(keys), jnp.int32), jnp.zeros(len(keys)))


def observe_episodes(environment: Environment, episodes: Episodes) -> Array:
    """The observations (B, ...) of the episodes."""
    return jax.vmap(environment.observe)(episodes.env_state)


def step_episodes(
    environment: Environment, episodes: Episodes, actions: Array, keys: Key
) -> tuple[Episodes, StepResult]:
    """One step of all episodes by the policy's `actions` (B, ...), with autoreset.

    An episode that is done is replaced by a new one. The random numbers of row b depend only on
    `keys[b]`.
    """
    actions = environment.action_space.unnormalize(actions)
    states, reward, terminated = jax.vmap(environment.step)(
        episodes.env_state, actions, fold_in_rows(keys, 0)
    )
    reward = reward.astype(jnp.float32)  # of whole numbers, too
    after = Episodes(states, episodes.episode_length + 1, episodes.episode_return + reward)
    done = terminated | (after.episode_length >= environment.max_episode_steps)
    result = StepResult(
        next_obs=observe_episodes(environment, after),
        reward=reward,
        terminated=terminated,
        done=done,
        episode_length=after.episode_length,
        episode_return=after.episode_return,
    )
    fresh = reset_episodes(environment, fold_in_rows(keys, 1))

    return where_rows(done, fresh, after), result


def rollout(
    environment: Environment,
    select_action: SelectAction,
    episodes: Episodes,
    keys: Key,
    num_steps: int,
) -> tuple[Episodes, Transition]:
    """A rollout: `num_steps` steps of all episodes by a policy, and its transitions (T, B, ...).

    The policy is `select_action(obs (B, ...), keys (B,)) -> actions (B, ...)`. The random numbers
    of row b depend only on `keys[b]`. Episodes continue from the rollout before and into the next
    one, and may end and begin within it.
    """

    def act(obs: Array, keys: Key, policy_state: Any) -> tuple[Array, Any]:
        return select_action(obs, keys), policy_state

    episodes, _, transitions = recurrent_rollout(environment, act, episodes, (), keys, num_steps)
    return episodes, transitions


def recurrent_rollout(
    environment: Environment,
    act: Act,
    episodes: Episodes,
    policy_state: Any,
    keys: Key,
    num_steps: int,
) -> tuple[Episodes, Any, Transition]:
    """A `rollout` that carries hidden states: `act(obs, keys, states) -> (actions, states)`.

    `policy_state` are the policy's hidden states (B, ...) before it, () without any; the second
    result are those after it. They are reset to zeros where an episode is done.
    """

    def one_step(carry: tuple[Episodes, Any], t: Array) -> tuple[tuple[Episodes, Any], Transition]:
        episodes, states = carry
        obs = observe_episodes(environment, episodes)
        action, states = act(obs, fold_in_rows(keys, 2 * t), states)
        step_keys = fold_in_rows(keys, 2 * t + 1)
        episodes, result = step_episodes(environment, episodes, action, step_keys)
        transition = Transition(**vars(result), obs=obs, action=action, policy_state=states)
        zeros = jax.tree.map(jnp.zeros_like, states)
        return (episodes, where_rows(result.done, zeros, states)), transition

    start = episodes, policy_state
    (episodes, policy_state), steps = jax.lax.scan(one_step, start, jnp.arange(num_steps))
    return episodes, policy_state, steps


def where_rows(condition: Array, new: Any, old: Any) -> Any:
    """The rows of the tree `new` where the condition (B,) is true, those of `old` elsewhere."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


def fold_in_rows(keys: Key, data: Array | int) -> Key:
    """`jax.random.fold_in(key, data)` of each of the keys (B,)."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
