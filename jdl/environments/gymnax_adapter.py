"""Environments of gymnax (Lange, 2022), which are pure JAX functions too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.environments.environment import Environment
from jdl.environments.spaces import action_space, num_classes
from jdl.types import Array, Error, Key

# No time limit, but far enough below the largest int32 that no counter overflows.
NO_LIMIT = 2**30


def from_gymnax(name_or_env: Any, params: Any = None) -> Environment:
    """An environment of gymnax, by its name or as an object with gymnax's interface.

    `params` are gymnax's parameters of the environment, by default its own. Their
    `max_steps_in_episode` is our `max_episode_steps`: an episode that reaches it is truncated, not
    terminated. Observations become float32, those of a Discrete space one-hot. Action spaces are
    Discrete, or a Box of any shape with finite bounds, whose actions become (n,).

    Raises `Error` for other action spaces, for observations that are not a single array, for params
    without max_steps_in_episode, and for a name if gymnax is not installed.
    """
    env = _make(name_or_env) if isinstance(name_or_env, str) else name_or_env
    params = env.default_params if params is None else params
    limit = getattr(params, "max_steps_in_episode", None)
    if limit is None:
        raise Error(
            f"The params of {name_or_env} have no max_steps_in_episode: pass params with one, "
            "after which episodes are truncated."
        )
    space = env.action_space(params)
    actions = action_space(space, name_or_env)
    if not hasattr(env, "is_truncated"):
        # Before gymnax 1.0, `done` is also true at the time limit, so the limit is taken out. Later
        # versions keep it, because some environments observe the share of time that has passed.
        params = replace(params, max_steps_in_episode=NO_LIMIT)
    has_space = hasattr(env, "observation_space")
    classes = num_classes(env.observation_space(params)) if has_space else None
    adapter = GymnaxAdapter(name_or_env, env, params, space.shape, classes)
    spec = jax.eval_shape(adapter.first_state, jax.eval_shape(jax.random.key, 0))
    adapter = replace(adapter, state_spec=spec)
    return Environment(adapter.reset, adapter.step, adapter.observe, actions, int(limit))


@dataclass(frozen=True, eq=False)
class GymnaxAdapter:
    """A gymnax environment as our pure functions; an episode's state is (obs, gymnax's state)."""

    name: Any
    env: Any
    params: Any
    action_shape: tuple[int, ...]
    num_classes: int | None  # of Discrete observations
    state_spec: Any = None  # shapes and types of an episode's state

    def reset(self, key: Key) -> tuple[Array, Any]:
        """A new episode's state."""
        return cast_like(self.first_state(key), self.state_spec)

    def step(
        self, state: tuple[Array, Any], action: Array, key: Key
    ) -> tuple[tuple[Array, Any], Array, Array]:
        """The next state, the reward and whether the episode has terminated."""
        with _lenient_promotion():
            obs, env_state, reward, done, _ = self.env.step_env(
                key, state[1], action.reshape(self.action_shape), self.params
            )
        state = cast_like((self._float_obs(obs), env_state), self.state_spec)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return state, reward, jnp.asarray(done, bool).reshape(())

    def observe(self, state: tuple[Array, Any]) -> Array:
        """The observation, which is a part of the state."""
        return state[0]

    def first_state(self, key: Key) -> tuple[Array, Any]:
        """A new episode's state, in gymnax's own dtypes."""
        with _lenient_promotion():
            obs, env_state = self.env.reset_env(key, self.params)
        return self._float_obs(obs), env_state

    def _float_obs(self, obs: Any) -> Array:
        if self.num_classes is not None:
            return jax.nn.one_hot(obs, self.num_classes)
        if not hasattr(obs, "shape"):
            raise Error(
                f"{self.name} has observations of type {type(obs).__name__}; only single arrays "
                "are supported."
            )
        return jnp.asarray(obs, jnp.float32)


def cast_like(tree: Any, spec: Any) -> Any:
    """Casts the arrays to the dtypes of `spec`, so that a loop's state keeps its dtypes.

    Python scalars become arrays that are not weakly typed.
    """

    def cast(leaf: Any, spec: Any) -> Array:
        if jnp.issubdtype(spec.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.convert_element_type(jnp.asarray(leaf), spec.dtype)

    return jax.tree.map(cast, tree, spec)


@contextmanager
def _lenient_promotion() -> Iterator[None]:
    """JAX's default promotion of dtypes and ranks, on which gymnax's code relies."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _make(name: str) -> Any:
    try:
        import gymnax
    except ImportError as error:
        raise Error(
            f"{name} needs gymnax, which is not installed ({error}): pip install 'jdl[rl]'."
        ) from error
    return gymnax.make(name)[0]
