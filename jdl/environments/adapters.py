"""Environments of two other libraries: gymnax's, which are pure, and Gymnasium's, which replay makes so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.environments.actions import Box, Discrete
from jdl.environments.environment import Environment
from jdl.types import Array, Error, Key

ENDLESS = (
    2**30
)  # steps, and so far below the greatest int32 that no sum of an environment's runs over


def from_gymnax(name_or_env: Any, params: Any = None) -> Environment:
    """An environment of gymnax, by its name there or as an object of its interface, with its own or these `params`.

    An episode's state is (observation, gymnax's state). `params.max_steps_in_episode` is the `limit`: what it cuts off
    has not terminated. Observations are given as float32, those of a Discrete space one-hot; actions are Discrete, or
    a bounded Box of any shape, which is given as (n,). `Error` for other actions, for observations that are no single
    array, for params without max_steps_in_episode, and where a name is given and gymnax is not installed.
    """
    env = _gymnax(name_or_env) if isinstance(name_or_env, str) else name_or_env
    params = env.default_params if params is None else params
    limit = getattr(params, "max_steps_in_episode", None)
    if limit is None:
        raise Error(
            f"{name_or_env} has no max_steps_in_episode in its params, by which its episodes are cut off."
        )
    space = env.action_space(params)
    actions = _actions(space, name_or_env)
    if not hasattr(env, "is_truncated"):
        # Before 1.0, `done` is also true at the time limit. Since then it is not, and `params` stay as they are, for
        # some environments show the share of the time that has passed.
        params = replace(params, max_steps_in_episode=ENDLESS)
    classes = _classes(env.observation_space(params)) if hasattr(env, "observation_space") else None

    def seen(observation: Any) -> Array:
        if classes is not None:
            return jax.nn.one_hot(observation, classes)
        if not hasattr(observation, "shape"):
            raise Error(
                f"{name_or_env} shows {type(observation).__name__}; taken are single arrays."
            )
        return jnp.asarray(observation, jnp.float32)

    def start(key: Key) -> tuple[Array, Any]:
        with (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):  # gymnax's code relies on both
            observation, state = env.reset_env(key, params)
        return seen(observation), state

    like = jax.eval_shape(start, jax.eval_shape(jax.random.key, 0))

    def reset(key: Key) -> tuple[Array, Any]:
        return _typed(start(key), like)

    def step(
        state: tuple[Array, Any], action: Array, key: Key
    ) -> tuple[tuple[Array, Any], Array, Array]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            observation, inner, reward, done, _ = env.step_env(
                key, state[1], action.reshape(space.shape), params
            )
        following = _typed((seen(observation), inner), like)
        return (
            following,
            jnp.asarray(reward, jnp.float32).reshape(()),
            jnp.asarray(done, bool).reshape(()),
        )

    return Environment(reset, step, lambda state: state[0], actions, int(limit))


def from_gymnasium(name: str, limit: int | None = None, **options: Any) -> Environment:
    """An environment of Gymnasium, which `gymnasium.make(name, **options)` makes, as a pure function, by replay.

    An episode's state is its `seed`, () of int32, the `actions` so far, (limit, ...), and their `count`, () of int32.
    What is seen after them, the last reward and whether it terminated are what an environment that is reset by the
    seed does when it is given the actions. Copies are kept that have just taken them, one for each episode under way,
    so that a step of an episode is mostly one of a copy; the ones not used for longest are used again. Where there is
    no copy, as after a restart or an evaluation, the episode is replayed once: a reset, and as many steps as it has.

    So nothing but the state counts, if the environment repeats itself: after `reset(seed=...)` it has to do the same
    for the same actions, whatever was done with it before. `Error` if it fails to in a short trial; a rare failure is
    not found. It must not call JAX, which would wait for itself. Its steps are taken one after the other on the host,
    which makes it far slower than the environments of JAX.

    `limit` is by default the time limit that the environment is registered with; what it cuts off has not terminated.
    What the environment cuts off by itself counts as terminated. Observations are a Box, given as float32, or Discrete,
    given one-hot. Actions are Discrete, or a bounded Box of floats of any shape, which is given as (n,). `Error` for
    other spaces, for a limit that is missing or below 1, and where Gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise Error(
            f"{name} needs Gymnasium, which is not installed ({error}): pip install 'jdl[rl]'."
        ) from error

    def make() -> Any:
        return gymnasium.make(
            name, max_episode_steps=-1, **{"disable_env_checker": True, **options}
        )  # -1: no limit

    env = make()
    limit = gymnasium.spec(env.spec.id).max_episode_steps if limit is None else limit
    if limit is None:
        raise Error(
            f"{name} is registered without a time limit: say after how many steps to cut it off, limit=...."
        )
    if limit < 1:
        raise Error(f"limit is at least 1 step, and {limit} is not.")
    actions = _actions(env.action_space, name)
    copies = _Copies(
        make, env, _shown(env.observation_space, name), _taken(env.action_space), limit
    )
    if not copies.repeats(_tried(actions, min(limit, 16))):
        raise Error(
            f"{name} does not do the same again after reset(seed=...), on which replay relies."
        )
    kinds = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool)
    picture = jax.ShapeDtypeStruct(copies.show(env.reset(seed=0)[0]).shape, jnp.float32)
    if isinstance(actions, Discrete):
        none = np.zeros(limit, np.int32)
    else:
        none = np.zeros((limit, len(actions.low)), np.float32)

    def reset(key: Key) -> dict[str, Array]:
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max, jnp.int32)
        return {"seed": seed, "actions": jnp.asarray(none), "count": jnp.zeros((), jnp.int32)}

    def asked(what: Callable, kind: Any, state: dict[str, Array]) -> Any:
        episode = (state["seed"], state["actions"], state["count"])
        return jax.pure_callback(
            what, kind, *episode, vmap_method="broadcast_all"
        )  # all rows of all vmaps in one call

    def step(
        state: dict[str, Array], action: Array, key: Key
    ) -> tuple[dict[str, Array], Array, Array]:
        taken = state["actions"].at[state["count"]].set(action.astype(none.dtype))
        following = {"seed": state["seed"], "actions": taken, "count": state["count"] + 1}
        return following, *asked(copies.earned, kinds, following)

    def observe(state: dict[str, Array]) -> Array:
        return asked(copies.seen, picture, state)

    return Environment(reset, step, observe, actions, limit)


@dataclass
class _Point:
    """What an episode had come to after some actions, and the copy that is there, if none has taken it further."""

    seen: np.ndarray
    reward: float
    terminated: bool
    env: Any


class _Copies:
    """Episodes of a Gymnasium environment as functions of their seeds and actions; NumPy alone, for JAX waits for it.

    Each point that was asked for is kept until others fill the room, so also the one before a copy's last step: XLA
    may well ask for that one later. The room is for many more points than a call has rows, because an episode takes
    two of them a step and, where devices call for their own rows, they share it.
    """

    def __init__(
        self, make: Callable[[], Any], env: Any, show: Callable, take: Callable, limit: int
    ) -> None:
        self.make, self.show, self.take, self.limit = make, show, take, limit
        self.points: dict[
            bytes, _Point
        ] = {}  # by seed and actions, those not asked for longest first
        self.spare = [env]
        self.room = 64
        self.lock = threading.Lock()  # devices call in threads of their own

    def seen(self, seed: Any, actions: Any, count: Any) -> np.ndarray:
        """The observations (..., *shape) after the first `count` (...) actions (..., limit, *action)."""
        shape, points = self._all(seed, actions, count)
        return np.stack([point.seen for point in points]).reshape(*shape, *points[0].seen.shape)

    def earned(self, seed: Any, actions: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
        """The rewards (...) of the last of the first `count` (...) actions, and whether they terminated episodes."""
        shape, points = self._all(seed, actions, count)
        rewards, ends = [point.reward for point in points], [point.terminated for point in points]
        return np.asarray(rewards, np.float32).reshape(shape), np.asarray(ends, bool).reshape(shape)

    def repeats(self, actions: np.ndarray) -> bool:
        """Whether a copy that has taken these actions already does the same again."""
        env = self.spare[-1]
        first, again = (self._played(env, np.zeros((), np.int32), actions) for _ in range(2))
        same = np.array_equal(first.seen, again.seen, equal_nan=True)
        return same and (first.reward, first.terminated) == (again.reward, again.terminated)

    def _all(self, *arguments: Any) -> tuple[tuple[int, ...], list[_Point]]:
        seeds, actions, counts = (np.asarray(argument) for argument in arguments)
        rows = zip(
            seeds.ravel(),
            actions.reshape(-1, *actions.shape[seeds.ndim :]),
            counts.ravel(),
            strict=True,
        )
        with self.lock:
            self.room = max(self.room, 8 * seeds.size)
            return seeds.shape, [self._at(*row) for row in rows]

    def _at(self, seed: np.ndarray, actions: np.ndarray, count: np.ndarray) -> _Point:
        if count > self.limit:
            raise Error(
                f"An episode was to go on after its limit of {self.limit} steps: begin the next one there."
            )
        key, before = (seed.tobytes() + actions[:n].tobytes() for n in (count, max(count - 1, 0)))
        point = self.points.pop(key, None) or self._new(before, seed, actions[:count])
        self.points[key] = point
        while len(self.points) > self.room:
            self._free(self.points.pop(next(iter(self.points))))
        return point

    def _new(self, before: bytes, seed: np.ndarray, actions: np.ndarray) -> _Point:
        near = self.points.get(before)
        if len(actions) and near and near.env is not None:
            env, near.env = near.env, None
            point = self._moved(env, actions[-1])
        else:
            point = self._played(self.spare.pop() if self.spare else self.make(), seed, actions)
        if point.terminated or len(actions) == self.limit:
            self._free(point)  # nobody goes on from here
        return point

    def _free(self, point: _Point) -> None:
        if point.env is not None:
            self.spare.append(point.env)
            point.env = None

    def _played(self, env: Any, seed: np.ndarray, actions: np.ndarray) -> _Point:
        point = _Point(self.show(env.reset(seed=int(seed))[0]), 0.0, False, env)
        for action in actions:
            point = self._moved(env, action)
        return point

    def _moved(self, env: Any, action: np.ndarray) -> _Point:
        observation, reward, terminated, cut, _ = env.step(self.take(action))
        return _Point(self.show(observation), float(reward), bool(terminated or cut), env)


def _gymnax(name: str) -> Any:
    try:
        import gymnax
    except ImportError as error:
        raise Error(
            f"{name} needs gymnax, which is not installed ({error}): pip install 'jdl[rl]'."
        ) from error
    return gymnax.make(name)[0]


def _is(space: Any, kind: str) -> bool:
    """Whether it is of this class, which both libraries have by the same name."""
    return any(base.__name__ == kind for base in type(space).__mro__)


def _actions(space: Any, name: Any) -> Discrete | Box:
    if _is(space, "Discrete"):
        return Discrete(int(space.n))
    if _is(space, "Box") and np.issubdtype(np.dtype(space.dtype), np.floating):
        low, high = (
            np.broadcast_to(np.asarray(end, float), space.shape).ravel()
            for end in (space.low, space.high)
        )
        if np.isfinite(low).all() and np.isfinite(high).all():
            return Box(tuple(low.tolist()), tuple(high.tolist()))
    raise Error(
        f"{name} takes actions of {space}; known are Discrete, and a Box of floats with finite bounds."
    )


def _classes(space: Any) -> int | None:
    """How many observations there are, where they are numbered."""
    return int(space.n) if _is(space, "Discrete") else None


def _shown(space: Any, name: str) -> Callable[[Any], np.ndarray]:
    """What makes an observation of float32 of the environment's."""
    count, first = _classes(space), int(getattr(space, "start", 0))
    if count is not None:
        return lambda observation: np.eye(1, count, int(observation) - first, dtype=np.float32)[0]
    if not _is(space, "Box"):
        raise Error(f"{name} shows observations of {space}; known are Box and Discrete.")
    return lambda observation: np.array(
        observation, np.float32
    )  # a copy: it may write the next into the same memory


def _taken(space: Any) -> Callable[[np.ndarray], Any]:
    """What makes the environment's action of one of ours."""
    if _is(space, "Discrete"):
        first = int(getattr(space, "start", 0))
        return lambda action: int(action) + first
    return lambda action: action.reshape(space.shape).astype(space.dtype)


def _tried(actions: Discrete | Box, count: int) -> np.ndarray:
    """So many actions, to find out by whether an environment repeats itself."""
    if isinstance(actions, Discrete):
        return np.arange(count) % actions.count
    return np.asarray([actions.low, actions.high], np.float32)[np.arange(count) % 2]


def _typed(tree: Any, like: Any) -> Any:
    """The arrays with the types of `like`; numbers of Python become arrays, whose type does not give way to others."""

    def one(leaf: Any, like: Any) -> Array:
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.convert_element_type(jnp.asarray(leaf), like.dtype)

    return jax.tree.map(one, tree, like)
