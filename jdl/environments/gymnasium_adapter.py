"""Environments of Gymnasium (Towers et al., 2024), as pure functions, by replay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.environments.actions import Box, Discrete
from jdl.environments.environment import Environment
from jdl.environments.spaces import action_space, first_index, is_space, num_classes
from jdl.types import Array, Error, Key

MIN_SNAPSHOTS = 64  # the smallest capacity of a cache
SNAPSHOTS_PER_ROW = 8  # the capacity for each row of the largest call
TRIAL_STEPS = 16  # in the test whether an environment is deterministic


def from_gymnasium(name: str, max_episode_steps: int | None = None, **options: Any) -> Environment:
    """An environment of Gymnasium, `gymnasium.make(name, **options)`, as pure functions, by replay.

    An episode's state is its `seed`, () of int32, the `actions` so far, (max_episode_steps, ...),
    and their `count`, () of int32. Observation, reward and termination are those of an
    environment that is reset with the seed and given these actions. For speed, copies of the
    environment are cached in their newest states, so that a step of an episode is mostly one step
    of a copy; the least recently used copies are reused. If there is no copy, as after a restart or
    an evaluation, the episode is replayed once: a reset, and all of its actions.

    So a run depends on the state alone, provided that the environment is deterministic: after
    `reset(seed=...)` the same actions must have the same results, whatever happened before. A short
    test raises `Error` if they have not; it cannot detect rare exceptions. The environment must not
    call JAX, which would deadlock. Its steps run one after the other on the host, far slower than
    environments in JAX.

    `max_episode_steps` is by default the time limit that the environment is registered with; an
    episode that reaches it is truncated, not terminated. If the environment truncates an episode
    itself, that counts as termination. Observations are a Box, converted to float32, or Discrete,
    converted to one-hot. Action spaces are Discrete, or a Box of floats of any shape with finite
    bounds, whose actions become (n,). Raises `Error` for other spaces, for a time limit that is
    missing or below 1, and if Gymnasium is not installed.
    """
    if not isinstance(name, str):
        raise Error(
            f"from_gymnasium copies an environment by its name, and got {name!r}: register "
            "its class, gymnasium.register('My-v0', Mine), and give from_gymnasium('My-v0')."
        )
    gymnasium = _import_gymnasium(name)
    options = {"disable_env_checker": True, **options}
    make = partial(gymnasium.make, name, max_episode_steps=-1, **options)  # -1: no time limit
    env = make()
    limit = max_episode_steps
    if limit is None:
        limit = gymnasium.spec(env.spec.id).max_episode_steps
    if limit is None:
        raise Error(
            f"{name} is registered without a time limit: pass max_episode_steps=..., after which "
            "its episodes are truncated."
        )
    if limit < 1:
        raise Error(f"max_episode_steps must be at least 1, got {limit}.")
    actions = action_space(env.action_space, name)
    spaces = SpaceConversion.of(env, name)
    cache = ReplayCache(make, env, spaces, limit)
    if not cache.is_deterministic(_trial_actions(actions, min(limit, TRIAL_STEPS))):
        raise Error(
            f"{name} is not deterministic: it does not do the same again after reset(seed=...), as "
            "replay requires."
        )
    obs_shape = spaces.obs_to_float(env.reset(seed=0)[0]).shape
    replay = GymnasiumReplay(cache, _no_actions(actions, limit), obs_shape)
    return Environment(replay.reset, replay.step, replay.observe, actions, limit)


@dataclass(frozen=True, eq=False)
class GymnasiumReplay:
    """A Gymnasium environment as pure functions, which call a `ReplayCache` on the host."""

    cache: ReplayCache
    no_actions: np.ndarray  # (max_episode_steps, ...) of zeros
    obs_shape: tuple[int, ...]

    def reset(self, key: Key) -> dict[str, Array]:
        """A new episode's state: a random seed, and no actions."""
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max, jnp.int32)
        actions = jnp.asarray(self.no_actions)
        return {"seed": seed, "actions": actions, "count": jnp.zeros((), jnp.int32)}

    def step(
        self, state: dict[str, Array], action: Array, key: Key
    ) -> tuple[dict[str, Array], Array, Array]:
        """The state with one more action, the reward, and whether the episode has terminated."""
        actions = state["actions"].at[state["count"]].set(action.astype(self.no_actions.dtype))
        state = {"seed": state["seed"], "actions": actions, "count": state["count"] + 1}
        spec = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool)
        return state, *self._call_host(self.cache.reward_and_terminated, spec, state)

    def observe(self, state: dict[str, Array]) -> Array:
        """The observation after the actions so far."""
        spec = jax.ShapeDtypeStruct(self.obs_shape, jnp.float32)
        return self._call_host(self.cache.observe, spec, state)

    def _call_host(self, function: Callable[..., Any], spec: Any, state: dict[str, Array]) -> Any:
        arguments = state["seed"], state["actions"], state["count"]
        # "broadcast_all": one call for all rows of all vmaps.
        return jax.pure_callback(function, spec, *arguments, vmap_method="broadcast_all")


@dataclass(frozen=True, eq=False)
class SpaceConversion:
    """Conversion of observations and actions between Gymnasium's form and ours."""

    observation_space: Any
    action_space: Any

    @classmethod
    def of(cls, env: Any, name: str) -> SpaceConversion:
        """The conversion for an environment; `Error` if observations are no Box or Discrete."""
        space = env.observation_space
        if not is_space(space, "Discrete") and not is_space(space, "Box"):
            raise Error(f"{name} has observations of {space}; only Box and Discrete are supported.")
        return cls(space, env.action_space)

    def obs_to_float(self, obs: Any) -> np.ndarray:
        """An observation as float32; one-hot for a Discrete space."""
        classes = num_classes(self.observation_space)
        if classes is not None:
            index = int(obs) - first_index(self.observation_space)
            return np.eye(1, classes, index, dtype=np.float32)[0]
        # A copy, because the environment may write the next observation into the same memory.
        return np.array(obs, np.float32)

    def action_to_env(self, action: np.ndarray) -> Any:
        """One of our actions as the environment takes it."""
        if is_space(self.action_space, "Discrete"):
            return int(action) + first_index(self.action_space)
        return action.reshape(self.action_space.shape).astype(self.action_space.dtype)


@dataclass
class Snapshot:
    """An episode's result after some actions, and an environment in that state, or None."""

    obs: np.ndarray
    reward: float
    terminated: bool
    env: Any


class ReplayCache:
    """A cache of copies of a Gymnasium environment, by the seed and the actions of their episodes.

    It uses only NumPy, because JAX waits for its result. A snapshot stays until the cache is full,
    even if its copy has moved on, because XLA may ask for it again. The cache holds many more
    snapshots than a call has rows: an episode takes two of them a step, and several devices share
    the cache, each calling for its own rows.
    """

    def __init__(
        self, make: Callable[[], Any], env: Any, spaces: SpaceConversion, limit: int
    ) -> None:
        self.make, self.spaces, self.limit = make, spaces, limit
        self.snapshots: dict[bytes, Snapshot] = {}  # by seed and actions, least recently used first
        self.idle_envs = [env]
        self.room = MIN_SNAPSHOTS
        self.lock = threading.Lock()  # devices call in threads of their own

    def observe(self, seed: Any, actions: Any, count: Any) -> np.ndarray:
        """The observations (..., *shape) after the first `count` (...) of the actions.

        `actions` are (..., max_episode_steps, *action).
        """
        shape, snapshots = self._look_up_rows(seed, actions, count)
        obs = np.stack([snapshot.obs for snapshot in snapshots])
        return obs.reshape(*shape, *obs.shape[1:])

    def reward_and_terminated(
        self, seed: Any, actions: Any, count: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rewards (...) of the last of these actions, and whether it terminated the episode."""
        shape, snapshots = self._look_up_rows(seed, actions, count)
        rewards = np.asarray([snapshot.reward for snapshot in snapshots], np.float32)
        terminated = np.asarray([snapshot.terminated for snapshot in snapshots], bool)
        return rewards.reshape(shape), terminated.reshape(shape)

    def is_deterministic(self, actions: np.ndarray) -> bool:
        """Whether an environment does the same again after a second reset, given these actions."""
        env = self.idle_envs[-1]
        first, second = (self._replay(env, np.zeros((), np.int32), actions) for _ in range(2))
        same = np.array_equal(first.obs, second.obs, equal_nan=True)
        return same and (first.reward, first.terminated) == (second.reward, second.terminated)

    def _look_up_rows(self, *arguments: Any) -> tuple[tuple[int, ...], list[Snapshot]]:
        seeds, actions, counts = (np.asarray(argument) for argument in arguments)
        actions = actions.reshape(-1, *actions.shape[seeds.ndim :])
        rows = zip(seeds.ravel(), actions, counts.ravel(), strict=True)
        with self.lock:
            self.room = max(self.room, SNAPSHOTS_PER_ROW * seeds.size)
            return seeds.shape, [self._look_up(*row) for row in rows]

    def _look_up(self, seed: np.ndarray, actions: np.ndarray, count: np.ndarray) -> Snapshot:
        if count > self.limit:
            raise Error(
                f"An episode was stepped after its limit of {self.limit} steps, max_episode_steps: "
                "reset it at the limit."
            )
        key, previous = (seed.tobytes() + actions[:n].tobytes() for n in (count, max(count - 1, 0)))
        snapshot = self.snapshots.pop(key, None)
        if snapshot is None:
            snapshot = self._compute(previous, seed, actions[:count])
        self.snapshots[key] = snapshot
        while len(self.snapshots) > self.room:
            self._release(self.snapshots.pop(next(iter(self.snapshots))))
        return snapshot

    def _compute(self, previous: bytes, seed: np.ndarray, actions: np.ndarray) -> Snapshot:
        """A new snapshot: by a step of the previous snapshot's copy, otherwise by a replay."""
        before = self.snapshots.get(previous)
        if len(actions) and before and before.env is not None:
            env, before.env = before.env, None
            snapshot = self._step(env, actions[-1])
        else:
            env = self.idle_envs.pop() if self.idle_envs else self.make()
            snapshot = self._replay(env, seed, actions)
        if snapshot.terminated or len(actions) == self.limit:
            self._release(snapshot)  # the last step of the episode
        return snapshot

    def _release(self, snapshot: Snapshot) -> None:
        if snapshot.env is not None:
            self.idle_envs.append(snapshot.env)
            snapshot.env = None

    def _replay(self, env: Any, seed: np.ndarray, actions: np.ndarray) -> Snapshot:
        obs = self.spaces.obs_to_float(env.reset(seed=int(seed))[0])
        snapshot = Snapshot(obs, 0.0, False, env)
        for action in actions:
            snapshot = self._step(env, action)
        return snapshot

    def _step(self, env: Any, action: np.ndarray) -> Snapshot:
        obs, reward, terminated, truncated, _ = env.step(self.spaces.action_to_env(action))
        obs = self.spaces.obs_to_float(obs)
        return Snapshot(obs, float(reward), bool(terminated or truncated), env)


def _import_gymnasium(name: str) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise Error(
            f"{name} needs Gymnasium, which is not installed ({error}): pip install 'jdl[rl]'."
        ) from error
    return gymnasium


def _no_actions(actions: Discrete | Box, limit: int) -> np.ndarray:
    if isinstance(actions, Discrete):
        return np.zeros(limit, np.int32)
    return np.zeros((limit, len(actions.low)), np.float32)


def _trial_actions(actions: Discrete | Box, count: int) -> np.ndarray:
    """Actions of the short test whether an environment is deterministic."""
    if isinstance(actions, Discrete):
        return np.arange(count) % actions.n
    return np.asarray([actions.low, actions.high], np.float32)[np.arange(count) % 2]
