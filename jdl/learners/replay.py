"""Experience replay (Lin, 1992): a ring buffer of transitions, sampled uniformly or by priority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Environment, Episodes, Transition, observe_episodes
from jdl.learners.rl import to_rows
from jdl.types import Array, Batch, Error, Key

REPLAY_BUFFER = "replay_buffer"  # in `State.extra`: columns (buffer_size, ...) of transitions
PRIORITY = "priority"  # a column of the buffer of prioritized replay; 0 where it is empty


def check_learning_starts(learning_starts: int, steps: int) -> None:
    """Raises `Error` for a run of DQN or SAC that would end before it learns anything."""
    if learning_starts >= steps:
        raise Error(
            f"With learning_starts={learning_starts} nothing would be learnt in the run's {steps} "
            "training steps. It counts training steps, each of which is num_steps steps in every "
            "environment: divide a number of environment steps by these, or train for more steps."
        )


def check_schedule(name: str, schedule: Any, steps: int | None = None) -> None:
    """Raises `Error` for a schedule that is none, or that leaves 0 to 1 in the first or last step.

    Of so many steps of the run; without them, its values are not looked at.
    """
    if not callable(schedule):
        raise Error(
            f"{name} must be a schedule, a function of the training step, not {schedule!r}: for a "
            f"constant one give optax.constant_schedule({schedule!r})."
        )
    for step in () if steps is None else (0, max(steps - 1, 0)):
        if not -1e-6 <= (value := float(schedule(jnp.int32(step)))) <= 1 + 1e-6:  # rounding
            raise Error(f"{name} must be from 0 to 1, and at training step {step} it is {value:g}.")


def check_replay_sizes(buffer_size: int, batch_size: int) -> None:
    """Raises `Error` for a replay buffer that is smaller than the batches sampled from it."""
    if buffer_size < batch_size:
        raise Error(
            f"A replay buffer of {buffer_size} transitions is smaller than the batch_size of "
            f"{batch_size}: take a larger buffer_size or a smaller batch_size."
        )


def init_buffer(
    environment: Environment, episodes: Episodes, num_steps: int, buffer_size: int
) -> Batch:
    """The replay buffer before the first transition: columns (buffer_size, ...) of zeros.

    Raises `Error` if rollouts of `num_steps` steps do not fill it exactly.
    """
    rows = len(episodes.episode_length)
    if buffer_size % (rows * num_steps):
        raise Error(
            f"{num_steps} steps of {rows} episodes are {rows * num_steps} transitions, which do "
            f"not divide the buffer_size of {buffer_size}: choose a multiple of "
            f"{rows * num_steps}."
        )
    space = environment.action_space
    policy = jax.ShapeDtypeStruct((buffer_size, space.num_params), jnp.float32)
    action = jax.eval_shape(space.mode, policy)
    obs = observe_episodes(environment, episodes)
    return {
        "obs": jnp.zeros((buffer_size, *obs.shape[1:]), obs.dtype),
        "next_obs": jnp.zeros((buffer_size, *obs.shape[1:]), obs.dtype),
        "action": jnp.zeros(action.shape, action.dtype),
        "reward": jnp.zeros(buffer_size),
        "terminated": jnp.zeros(buffer_size, bool),
    }


def add_to_buffer(buffer: Batch, transitions: Transition, step: Array) -> Batch:
    """The replay buffer, its oldest transitions replaced by these (T, B) of training step `step`.

    In prioritized replay they get the largest priority so far, so that each is soon seen once.
    """
    rows = transitions.reward.size
    # The remainder first: the number of all transitions so far may not fit in 32 bits.
    start = step % (len(buffer["reward"]) // rows) * rows

    def new_rows(name: str, column: Array) -> Array:
        if name == PRIORITY:
            largest = column.max()
            return jnp.broadcast_to(jnp.where(largest > 0, largest, 1.0), (rows,))
        return to_rows(getattr(transitions, name))

    return {
        name: jax.lax.dynamic_update_slice_in_dim(column, new_rows(name, column), start, 0)
        for name, column in buffer.items()
    }


def filled_rows(buffer: Batch, transitions: Transition, step: Array) -> Array:
    """How many rows of the buffer are filled after the rollout of training step `step`."""
    rows = transitions.reward.size
    return jnp.minimum(step + 1, len(buffer["reward"]) // rows) * rows


def sample_uniform(filled: Array, key: Key, batch_size: int) -> Array:
    """Random rows (batch_size,) of a replay buffer, among those that are filled."""
    return jax.random.randint(key, (batch_size,), 0, filled)


@dataclass(frozen=True)
class PrioritizedReplay:
    """Prioritized experience replay (Schaul et al., 2016), proportional to the TD error.

    Transition i is sampled with the probability P(i) = p_i / sum(p), where p_i is its priority:
    (|TD error| + `epsilon`) to the power of `alpha`, of the last time that it was sampled. The bias
    is corrected by importance sampling: its loss has the weight (N P(i))^-beta, for N transitions
    in the buffer, divided by the largest weight in the minibatch. `beta(step)` is a schedule over
    the training steps; the paper's rises from 0.4 to 1. A sampled batch is stratified: the
    priorities' cumulative sum is cut into equal parts, with one sample from each.
    """

    beta: optax.Schedule
    alpha: float = 0.6
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_schedule("beta", self.beta)
        if self.alpha < 0 or self.epsilon <= 0:
            raise Error(
                "PrioritizedReplay needs an alpha of at least 0 and an epsilon above 0, got "
                f"alpha={self.alpha}, epsilon={self.epsilon}."
            )

    def sample(
        self, buffer: Batch, filled: Array, step: Array, key: Key, batch_size: int
    ) -> tuple[Array, Array]:
        """Random rows of the buffer, and their importance weights, (batch_size,) each."""
        cumulative = jnp.cumsum(buffer[PRIORITY])
        strata = jnp.arange(batch_size, dtype=jnp.float32) + jax.random.uniform(key, (batch_size,))
        points = strata / batch_size * cumulative[-1]
        indices = jnp.searchsorted(cumulative, points, side="right")
        # Rounding may put a point at the very end: the rows there are empty.
        indices = jnp.minimum(indices, filled - 1)
        probability = buffer[PRIORITY][indices] / cumulative[-1]
        beta = jnp.asarray(self.beta(step), jnp.float32)
        weights = (filled.astype(jnp.float32) * probability) ** -beta
        return indices, weights / weights.max()

    def update(self, buffer: Batch, indices: Array, td_error: Array, learns: Array) -> Batch:
        """The buffer with new priorities of the sampled rows, if it `learns` in this step."""
        old = buffer[PRIORITY]
        new = (jnp.abs(td_error) + self.epsilon) ** self.alpha
        return {**buffer, PRIORITY: old.at[indices].set(jnp.where(learns, new, old[indices]))}
