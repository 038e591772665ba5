"""Shared parts of PPO, DQN and SAC: initial episodes, rollouts, and the metrics of episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Environment, Episodes, Transition, reset_episodes, rollout
from jdl.environments.environment import SelectAction
from jdl.keys import stream
from jdl.objectives.episodes import EpisodeReturn
from jdl.types import Array, Batch, Error, Key, Mean, Metrics, State

EPISODES = "episodes"  # in `State.extra`: the episodes in progress


def init_params(objective: EpisodeReturn, key: Key, batch: Batch) -> Any:
    """The model's initial parameters; raises `Error` if it has other variables too."""
    variables = objective.init(stream(key, "init"), batch)
    if others := sorted(variables.keys() - {"params"}):
        raise Error(
            f"The model has {', '.join(others)} besides its parameters, which PPO, DQN and SAC do "
            "not update: use a model without BatchNorm; a recurrent policy takes its states and "
            "returns them, as RecurrentActorCritic does."
        )
    return variables["params"]


def values_of(learner: Any, *names: str) -> str:
    """Fields and their values, as an error lists them: `gamma=2, tau=0.1`."""
    return ", ".join(f"{name}={getattr(learner, name)}" for name in names)


def init_episodes(environment: Environment, key: Key, batch: Batch) -> Episodes:
    """New episodes, one for each row of the batch."""
    return reset_episodes(environment, jax.random.split(stream(key, "reset"), len(batch["id"])))


def collect(
    environment: Environment,
    select_action: SelectAction,
    episodes: Episodes,
    key: Key,
    num_steps: int,
) -> tuple[Episodes, Transition]:
    """The rollout of a learner's step: the episodes after it, and the transitions (T, B, ...)."""
    return rollout(environment, select_action, episodes, step_keys(episodes, key), num_steps)


def step_keys(episodes: Episodes, key: Key) -> Key:
    """The keys (B,) of a rollout of a learner's step."""
    return jax.random.split(stream(key, "steps"), len(episodes.episode_length))


def end_step(
    state: State,
    params: Any,
    opt_state: Any,
    extra: dict[str, Any],
    metrics: Metrics,
    transitions: Transition,
) -> tuple[State, Metrics]:
    """The end of a learner's step: the state after it, and the metrics with those of its rollout.

    `extra` replaces the entries of `State.extra` of the same names.
    """
    metrics = {**metrics, **episode_metrics(transitions)}
    metrics["param_norm"] = Mean.of(optax.tree.norm(params))
    extra = {**state.extra, **extra}
    new = replace(state, step=state.step + 1, params=params, opt_state=opt_state, extra=extra)
    return new, metrics


def episode_metrics(transitions: Transition) -> Metrics:
    """`return` and `length`: means over the episodes that end within the rollout."""
    length = transitions.episode_length.astype(jnp.float32)
    return {
        "return": Mean.of(transitions.episode_return, transitions.done),
        "length": Mean.of(length, transitions.done),
    }


def to_rows(column: Array) -> Array:
    """A column (T, B, ...) of a rollout as rows (T * B, ...)."""
    return column.reshape(-1, *column.shape[2:])


def to_sequences(column: Array) -> Array:
    """A column (T, B, ...) of a rollout as sequences (B, T, ...), one an environment."""
    return column.swapaxes(0, 1)
