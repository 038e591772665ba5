"""Deep Q-network (DQN): Q-learning with a replay buffer and a target network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Discrete, Environment, Episodes, Transition, observe_episodes
from jdl.keys import stream
from jdl.learners.descent import new_state, update_params
from jdl.learners.rl import (
    EPISODES,
    collect,
    episode_metrics,
    init_episodes,
    init_params,
    to_rows,
)
from jdl.objectives.episodes import EpisodeReturn, policy_and_value
from jdl.types import Array, Batch, Error, Key, Learner, Mean, Metrics, State

TARGET_PARAMS = "target_params"  # in `State.extra`: the target network
REPLAY_BUFFER = "replay_buffer"  # in `State.extra`: columns (buffer_size, ...) of transitions


def dqn(
    environment: Environment,
    model: Any,
    optimizer: optax.GradientTransformation,
    epsilon: optax.Schedule,
    num_steps: int = 10,
    buffer_size: int = 10_000,
    batch_size: int = 128,
    learning_starts: int = 1_000,
    target_update_every: int = 50,
    gamma: float = 0.99,
) -> DQN:
    """Deep Q-network, DQN (Mnih et al., 2015): Q-learning with replay buffer and target network.

    A training step is a rollout of `num_steps` steps in each of the parallel environments, then one
    update on `batch_size` transitions sampled from the replay buffer. Train on
    `jdl.data.episodes(n)`, for n environments in parallel. The model gives the Q-values
    (B, actions) and has no variables but parameters. The steps below are training steps:

    - `epsilon(step)` is the schedule of epsilon-greedy exploration: with this probability an action
      is random, otherwise it is the one with the largest Q-value.
    - The replay buffer holds the `buffer_size` newest transitions; updates begin at step
      `learning_starts`.
    - The target network, which gives the next observation's value in the TD target, is a copy of
      the parameters, updated in every `target_update_every`-th step.

    Evaluation is by `jdl.objectives.episode_return`. Metrics of a step: `return` and `length` of
    the episodes that ended in it (NaN, logged as null, if none did), loss (half the mean squared TD
    error), q_value (the mean over the sampled transitions), grad_norm and param_norm.
    """
    if not isinstance(environment.action_space, Discrete):
        raise Error(
            f"DQN needs a discrete action space, got {environment.action_space}: use PPO for "
            "continuous actions."
        )
    sizes = (num_steps, buffer_size, batch_size, target_update_every)
    if min(sizes) < 1 or learning_starts < 0 or not 0 <= gamma <= 1:
        raise Error(
            "num_steps, buffer_size, batch_size and target_update_every must be at least 1, "
            "learning_starts at least 0, and gamma from 0 to 1; got "
            f"{num_steps=}, {buffer_size=}, {batch_size=}, {target_update_every=}, "
            f"{learning_starts=}, {gamma=}."
        )
    return DQN(
        environment=environment,
        model=model,
        optimizer=optimizer,
        epsilon=epsilon,
        num_steps=num_steps,
        buffer_size=buffer_size,
        batch_size=batch_size,
        learning_starts=learning_starts,
        target_update_every=target_update_every,
        gamma=gamma,
    )


@dataclass(frozen=True, eq=False)
class DQN(Learner):
    """Deep Q-network; see `dqn`.

    `State.extra` has the episodes in progress, the target network and the replay buffer.
    """

    environment: Environment
    model: Any
    optimizer: optax.GradientTransformation
    epsilon: optax.Schedule
    num_steps: int
    buffer_size: int
    batch_size: int
    learning_starts: int
    target_update_every: int
    gamma: float
    has_grads = False

    @property
    def objective(self) -> EpisodeReturn:  # type: ignore[override]
        """The objective of evaluation: the return of an episode."""
        return EpisodeReturn(self.environment, self.model)

    def init(self, key: Key, batch: Batch) -> State:
        """Initial parameters, the target network as their copy, and an empty replay buffer."""
        transitions = len(batch["id"]) * self.num_steps
        if self.buffer_size % transitions:
            raise Error(
                f"{self.num_steps} steps of {len(batch['id'])} episodes are {transitions} "
                f"transitions, which do not divide the buffer_size of {self.buffer_size}: choose a "
                f"multiple of {transitions}."
            )
        params = init_params(self.objective, key, batch)
        episodes = init_episodes(self.environment, key, batch)
        extra = {
            EPISODES: episodes,
            # A copy, because the same buffer cannot be donated twice.
            TARGET_PARAMS: jax.tree.map(jnp.copy, params),
            REPLAY_BUFFER: self.empty_buffer(episodes),
        }
        return new_state(params, {}, self.optimizer.init(params), key, **extra)

    def empty_buffer(self, episodes: Episodes) -> Batch:
        """The replay buffer before the first transition: columns (buffer_size, ...) of zeros."""
        obs_shape = observe_episodes(self.environment, episodes).shape[1:]
        return {
            "obs": jnp.zeros((self.buffer_size, *obs_shape)),
            "next_obs": jnp.zeros((self.buffer_size, *obs_shape)),
            "action": jnp.zeros(self.buffer_size, jnp.int32),
            "reward": jnp.zeros(self.buffer_size),
            "terminated": jnp.zeros(self.buffer_size, bool),
        }

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """A rollout into the replay buffer, then an update on transitions sampled from it."""
        key = stream(state.key, "dqn", state.step)
        episodes, transitions = self.collect_rollout(state, key)
        buffer = self.add_to_buffer(state, transitions)
        indices = self.sample_indices(state, transitions, key)
        target_params = self.update_target(state)
        params, opt_state, metrics = self.update(state, target_params, buffer, indices)
        metrics |= episode_metrics(transitions)
        metrics["param_norm"] = Mean.of(optax.tree.norm(params))
        extra = {EPISODES: episodes, TARGET_PARAMS: target_params, REPLAY_BUFFER: buffer}
        new = replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            extra={**state.extra, **extra},
        )
        return new, metrics

    def collect_rollout(self, state: State, key: Key) -> tuple[Episodes, Transition]:
        """A rollout with epsilon-greedy actions: transitions (T, B, ...)."""
        epsilon = jnp.asarray(self.epsilon(state.step), jnp.float32)
        space = self.environment.action_space
        assert isinstance(space, Discrete)

        def explore(key: Key, greedy: Array) -> Array:
            random = jax.random.randint(stream(key, "random_action"), (), 0, space.n, greedy.dtype)
            return jnp.where(jax.random.uniform(stream(key, "explore")) < epsilon, random, greedy)

        def epsilon_greedy(obs: Array, keys: Key) -> Array:
            greedy = self.objective.greedy_action({"params": state.params}, obs)
            return jax.vmap(explore)(keys, greedy)

        return collect(self.environment, epsilon_greedy, state.extra[EPISODES], key, self.num_steps)

    def add_to_buffer(self, state: State, transitions: Transition) -> Batch:
        """The replay buffer, its oldest transitions replaced by these (T, B)."""
        # The remainder first: the number of all transitions so far may not fit in 32 bits.
        rollouts = self.buffer_size // transitions.reward.size
        start = state.step % rollouts * transitions.reward.size

        def write(name: str, column: Array) -> Array:
            new = to_rows(getattr(transitions, name))
            return jax.lax.dynamic_update_slice_in_dim(column, new, start, 0)

        buffer = state.extra[REPLAY_BUFFER]
        return {name: write(name, column) for name, column in buffer.items()}

    def sample_indices(self, state: State, transitions: Transition, key: Key) -> Array:
        """Random rows (batch_size,) of the replay buffer, among those that are filled by now."""
        rollouts = self.buffer_size // transitions.reward.size
        filled = jnp.minimum(state.step + 1, rollouts) * transitions.reward.size
        return jax.random.randint(stream(key, "replay"), (self.batch_size,), 0, filled)

    def update_target(self, state: State) -> Any:
        """The target network, in every `target_update_every`-th step a copy of the parameters."""
        due = state.step % self.target_update_every == 0
        return jax.tree.map(
            lambda new, old: jnp.where(due, new, old), state.params, state.extra[TARGET_PARAMS]
        )

    def update(
        self, state: State, target_params: Any, buffer: Batch, indices: Array
    ) -> tuple[Any, Any, Metrics]:
        """A gradient step on these rows of the replay buffer, from step `learning_starts` on.

        Returns parameters, optimizer state and metrics.
        """

        def learn(params: Any, opt_state: Any) -> tuple[Any, Any, Array]:
            minibatch = {name: column[indices] for name, column in buffer.items()}
            grad = jax.value_and_grad(self.loss, has_aux=True)
            (loss, q_value), grads = grad(params, target_params, minibatch)
            params, opt_state, _ = update_params(self.optimizer, grads, opt_state, params)
            return params, opt_state, jnp.stack([loss, q_value, optax.tree.norm(grads)])

        def wait(params: Any, opt_state: Any) -> tuple[Any, Any, Array]:
            return params, opt_state, jnp.zeros(3)

        learns = state.step >= self.learning_starts
        params, opt_state, values = jax.lax.cond(learns, learn, wait, state.params, state.opt_state)
        count = learns.astype(jnp.float32)
        names = ("loss", "q_value", "grad_norm")
        return params, opt_state, {name: Mean(values[n], count) for n, name in enumerate(names)}

    def loss(self, params: Any, target_params: Any, minibatch: Batch) -> tuple[Array, Array]:
        """Half the mean squared TD error of the minibatch, and the mean Q-value of its actions."""
        next_q_values, _ = policy_and_value(
            self.model, {"params": target_params}, minibatch["next_obs"]
        )
        next_value = jnp.where(minibatch["terminated"], 0, next_q_values.max(-1))
        td_target = minibatch["reward"] + self.gamma * next_value
        q_values, _ = policy_and_value(self.model, {"params": params}, minibatch["obs"])
        q_value = jnp.take_along_axis(q_values, minibatch["action"][:, None], -1)[:, 0]
        return 0.5 * jnp.square(q_value - td_target).mean(), q_value.mean()
