"""The check of an environment's contract, by its shapes and types: nothing is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdl.environments.environment import Environment
from jdl.paths import by_path, differing_paths
from jdl.types import Error

STEP = "(state, reward, terminated)"


def check_environment(environment: Environment) -> None:
    """Raises `Error` where the functions of an environment break their contract.

    By `jax.eval_shape` of the first step of an episode.
    """
    _check_arguments("reset", environment.reset, ("key",))
    _check_arguments("step", environment.step, ("state", "action", "key"))
    _check_arguments("observe", environment.observe, ("state",))
    key, space = jax.eval_shape(jax.random.key, 0), environment.action_space
    policy = jax.ShapeDtypeStruct((space.num_params,), jnp.float32)
    action = jax.eval_shape(lambda policy: space.unnormalize(space.mode(policy)), policy)
    state = jax.eval_shape(environment.reset, key)
    result = jax.eval_shape(environment.step, state, action, key)
    if not isinstance(result, tuple) or len(result) != 3:
        raise Error(f"An environment's step must return {STEP}, and this one returns {_in(result)}")
    new, reward, terminated = result
    if _is_bool(reward) and not _is_bool(terminated):
        raise Error(
            f"An environment's step must return {STEP}, and here the second is a bool and the third"
            " is none: exchange reward and terminated."
        )
    _check_number("reward", reward, "a number", not _is_bool(reward))
    advice = "a bool: a comparison, or x.astype(bool)"
    _check_number("terminated", terminated, advice, _is_bool(terminated))
    _check_state(state, new)
    obs = jax.eval_shape(environment.observe, state)
    if not hasattr(obs, "shape"):
        raise Error(
            "An environment's observe must return a single array, and this one returns a "
            f"{type(obs).__name__}: join its parts, with jnp.concatenate or jnp.stack."
        )


def _check_arguments(name: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function that is not written in Python
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise Error(
            f"An environment's {name} is called as {name}({', '.join(arguments)}), and {name}"
            f"{signature} cannot be ({error}): give it these arguments, used or not."
        ) from None


def _check_number(name: str, value: Any, expected: str, right: bool) -> None:
    """Raises `Error` unless the value is a single one, of the right type."""
    shape = getattr(value, "shape", None)
    if shape == () and right:
        return
    given = f"a {type(value).__name__}" if shape is None else f"{value.dtype} of shape {shape}"
    single = "x.any()" if name == "terminated" else "x.sum()"
    more = f" Of shape {shape}, take x[0] or {single}." if shape else ""
    raise Error(
        f"The {name} that an environment's step returns must be of shape (), {expected}; this one "
        f"is {given}.{more}"
    )


def _check_state(before: Any, after: Any) -> None:
    """Raises `Error` where a step returns a state of other arrays than `reset`."""
    old, new = (str(jax.tree.structure(state)) for state in (before, after))
    if old != new:
        raise Error(
            f"An environment's reset returns a state of the structure {old}, and its step one of "
            f"{new}: both return the state alone, in one form. Gymnasium's reset returns "
            "(obs, info): leave out info."
        )
    leaves = by_path(before), by_path(after)
    for path in differing_paths(*leaves):
        old_leaf, new_leaf = (f"{one[path].dtype} of shape {one[path].shape}" for one in leaves)
        raise Error(
            f"An environment's state must keep its shapes and types: {path or 'the state'} is "
            f"{old_leaf} after reset, and {new_leaf} after step. Let both give the same, for "
            "example with jnp.asarray(..., jnp.float32) in reset or .astype in step."
        )


def _is_bool(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.bool_)


def _in(result: Any) -> str:
    """What a step returns, in words."""
    if not isinstance(result, tuple):
        return f"a {type(result).__name__}."
    if len(result) != 5:
        return f"{len(result)} values."
    return (
        "5 values, as Gymnasium's. Here the first is the state, of which observe makes the "
        "observation; leave out truncated, which max_episode_steps is for, and info."
    )
