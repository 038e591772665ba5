"""Environments as pure functions: an episode's start, its next step, and what is seen of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.environments.actions import Box, Discrete
from jdl.types import Array, Key


@dataclass(frozen=True)
class Environment:
    """Three pure functions of one episode, whose state is any tree of arrays.

    `reset(key) -> state`; `step(state, action, key) -> (state, reward, terminated)`, both () and the latter a bool;
    `observe(state) -> observation`, of float32. An episode that has not terminated is cut off after `limit` steps.
    """

    reset: Callable[[Key], Any]
    step: Callable[[Any, Array, Key], tuple[Any, Array, Array]]
    observe: Callable[[Any], Array]
    actions: Discrete | Box
    limit: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Episodes:
    """Episodes under way, one in each row."""

    state: Any
    length: Array  # (B,) of int32: steps so far
    total: Array  # (B,): the sums of rewards so far


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moved:
    """What a step did, (B, ...): observations `after` it, also of episodes that it ended; their lengths and totals."""

    after: Array
    reward: Array
    terminated: Array
    over: Array  # terminated, or cut off
    length: Array
    total: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Steps:
    """What was seen and done in steps that follow each other, (T, B, ...), and what came of it."""

    x: Array
    action: Array
    moved: Moved


def begin(environment: Environment, keys: Key) -> Episodes:
    """Episodes before their first step, one for each of `keys` (B,)."""
    return Episodes(
        jax.vmap(environment.reset)(keys), jnp.zeros(len(keys), jnp.int32), jnp.zeros(len(keys))
    )


def seen(environment: Environment, episodes: Episodes) -> Array:
    """The observations (B, ...)."""
    return jax.vmap(environment.observe)(episodes.state)


def move(
    environment: Environment, episodes: Episodes, actions: Array, keys: Key
) -> tuple[Episodes, Moved]:
    """The episodes after actions that the policy chose, (B, ...); where that ended one, the next before its own."""
    done = environment.actions.done(actions)
    state, reward, terminated = jax.vmap(environment.step)(episodes.state, done, folded(keys, 0))
    following = Episodes(state, episodes.length + 1, episodes.total + reward)
    over = terminated | (following.length >= environment.limit)
    moved = Moved(
        seen(environment, following), reward, terminated, over, following.length, following.total
    )
    fresh = begin(environment, folded(keys, 1))
    return jax.tree.map(
        lambda a, b: jnp.where(over.reshape(-1, *(1,) * (a.ndim - 1)), a, b), fresh, following
    ), moved


def rollout(
    environment: Environment,
    choose: Callable[[Array, Key], Array],
    episodes: Episodes,
    keys: Key,
    steps: int,
) -> tuple[Episodes, Steps]:
    """So many steps of all episodes, by `choose(x (B, ...), keys (B,)) -> actions (B, ...)`; a row draws by its key."""

    def step(episodes: Episodes, n: Array) -> tuple[Episodes, Steps]:
        x = seen(environment, episodes)
        actions = choose(x, folded(keys, 2 * n))
        episodes, moved = move(environment, episodes, actions, folded(keys, 2 * n + 1))
        return episodes, Steps(x, actions, moved)

    return jax.lax.scan(step, episodes, jnp.arange(steps))


def folded(keys: Key, n: Array | int) -> Key:
    """Each of the keys (B,) for its use number n."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, n)
