"""Deep Q-network (DQN): Q-learning with a replay buffer and a target network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Discrete, Environment, Episodes, Transition
from jdl.keys import stream
from jdl.layers import gather_params
from jdl.learners.descent import new_state, update_params
from jdl.learners.replay import (
    PRIORITY,
    REPLAY_BUFFER,
    PrioritizedReplay,
    add_to_buffer,
    check_learning_starts,
    check_replay_sizes,
    check_schedule,
    filled_rows,
    init_buffer,
    sample_uniform,
)
from jdl.learners.rl import (
    EPISODES,
    collect,
    end_step,
    init_episodes,
    init_params,
    values_of,
)
from jdl.objectives.episodes import EpisodeReturn, check_numbers, policy_and_value, refuse_recurrent
from jdl.types import Array, Batch, Error, Key, Learner, Mean, Metrics, State

TARGET_PARAMS = "target_params"  # in `State.extra`: the target network


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
    double: bool = False,
    prioritized: PrioritizedReplay | None = None,
) -> DQN:
    """Deep Q-network, DQN (Mnih et al., 2015): Q-learning with replay buffer and target network.

    A training step is a rollout of `num_steps` steps in each of the parallel environments, then one
    update on `batch_size` transitions sampled from the replay buffer. Train on
    `jdl.data.episodes(n)`, for n environments in parallel. The model gives the Q-values
    (B, actions) and has no variables but parameters. `epsilon`, `learning_starts` and
    `target_update_every` count training steps, not environment steps as in CleanRL: divide its
    numbers by `num_steps` times n.

    - `epsilon(step)` is the schedule of epsilon-greedy exploration: with this probability an action
      is random, otherwise it is the one with the largest Q-value.
    - The replay buffer holds the `buffer_size` newest transitions; updates begin at step
      `learning_starts`, which must be below the run's number of steps.
    - The target network, which gives the next observation's value in the TD target, is a copy of
      the parameters, updated in every `target_update_every`-th step.
    - `double` is double DQN (van Hasselt et al., 2016): the next action is the one with the largest
      Q-value of the network itself, and the target network gives its value. Without it the target
      network does both, which overestimates.
    - `prioritized` samples by priority; see `PrioritizedReplay`.

    A dueling network is a model: `jdl.models.q_network.Dueling`.

    Evaluation is by `jdl.objectives.episode_return`. Metrics of a step: `return` and `length` of
    the episodes that ended in it (NaN, logged as null, if none did), loss (half the mean squared TD
    error), q_value (the mean over the sampled transitions), grad_norm and param_norm.
    """
    refuse_recurrent("DQN", model)
    if not isinstance(environment.action_space, Discrete):
        raise Error(
            f"DQN needs a discrete action space, got {environment.action_space}: use SAC or PPO "
            "for continuous actions."
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
        double=double,
        prioritized=prioritized,
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
    double: bool = False
    prioritized: PrioritizedReplay | None = None
    has_grads = False

    def __post_init__(self) -> None:
        """Raises `Error` for sizes out of range and for a replay that is none."""
        check_numbers(self)
        sizes = ("num_steps", "buffer_size", "batch_size", "target_update_every")
        least = min(getattr(self, name) for name in sizes)
        if least < 1 or self.learning_starts < 0 or not 0 <= self.gamma <= 1:
            raise Error(
                f"{', '.join(sizes)} must be at least 1, learning_starts at least 0, and gamma "
                f"from 0 to 1; got {values_of(self, *sizes, 'learning_starts', 'gamma')}."
            )
        if not isinstance(self.prioritized, PrioritizedReplay | None):
            raise Error(
                "prioritized takes jdl.learners.PrioritizedReplay(beta=...), not "
                f"{self.prioritized!r}."
            )
        check_replay_sizes(self.buffer_size, self.batch_size)
        check_schedule("epsilon", self.epsilon)

    @property
    def objective(self) -> EpisodeReturn:  # type: ignore[override]
        """The objective of evaluation: the return of an episode."""
        return EpisodeReturn(self.environment, self.model)

    def init(self, key: Key, batch: Batch) -> State:
        """Initial parameters, the target network as their copy, and an empty replay buffer."""
        params = init_params(self.objective, key, batch)
        episodes = init_episodes(self.environment, key, batch)
        buffer = init_buffer(self.environment, episodes, self.num_steps, self.buffer_size)
        if self.prioritized:
            buffer[PRIORITY] = jnp.zeros(self.buffer_size)
        extra = {
            EPISODES: episodes,
            # A copy, because the same buffer cannot be donated twice.
            TARGET_PARAMS: jax.tree.map(jnp.copy, params),
            REPLAY_BUFFER: buffer,
        }
        return new_state(params, {}, self.optimizer.init(params), key, **extra)

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """A rollout into the replay buffer, then an update on transitions sampled from it."""
        key = stream(state.key, "dqn", state.step)
        episodes, transitions = self.collect_rollout(state, key)
        buffer = add_to_buffer(state.extra[REPLAY_BUFFER], transitions, state.step)
        filled = filled_rows(buffer, transitions, state.step)
        minibatch, indices = self.sample(state, buffer, filled, stream(key, "replay"))
        target_params = self.update_target(state)
        params, opt_state, td_error, metrics = self.update(state, target_params, minibatch)
        if self.prioritized:
            learns = state.step >= self.learning_starts
            buffer = self.prioritized.update(buffer, indices, td_error, learns)
        extra = {EPISODES: episodes, TARGET_PARAMS: target_params, REPLAY_BUFFER: buffer}
        return end_step(state, params, opt_state, extra, metrics, transitions)

    def collect_rollout(self, state: State, key: Key) -> tuple[Episodes, Transition]:
        """A rollout with epsilon-greedy actions: transitions (T, B, ...)."""
        epsilon = jnp.asarray(self.epsilon(state.step), jnp.float32)
        space, variables = self.environment.action_space, {"params": gather_params(state.params)}
        assert isinstance(space, Discrete)

        def explore(key: Key, greedy: Array) -> Array:
            random = jax.random.randint(stream(key, "random_action"), (), 0, space.n, greedy.dtype)
            return jnp.where(jax.random.uniform(stream(key, "explore")) < epsilon, random, greedy)

        def epsilon_greedy(obs: Array, keys: Key) -> Array:
            greedy, _ = self.objective.greedy_action(variables, obs, ())
            return jax.vmap(explore)(keys, greedy)

        return collect(self.environment, epsilon_greedy, state.extra[EPISODES], key, self.num_steps)

    def sample(self, state: State, buffer: Batch, filled: Array, key: Key) -> tuple[Batch, Array]:
        """A minibatch of the replay buffer's rows, and their indices (batch_size,)."""
        if self.prioritized is None:
            indices = sample_uniform(filled, key, self.batch_size)
            return {name: column[indices] for name, column in buffer.items()}, indices
        indices, weight = self.prioritized.sample(buffer, filled, state.step, key, self.batch_size)
        minibatch = {name: column[indices] for name, column in buffer.items()}
        return {**minibatch, "weight": weight}, indices

    def update_target(self, state: State) -> Any:
        """The target network, in every `target_update_every`-th step a copy of the parameters."""
        due = state.step % self.target_update_every == 0
        return jax.tree.map(
            lambda new, old: jnp.where(due, new, old), state.params, state.extra[TARGET_PARAMS]
        )

    def update(
        self, state: State, target_params: Any, minibatch: Batch
    ) -> tuple[Any, Any, Array, Metrics]:
        """A gradient step on the minibatch, from step `learning_starts` on.

        Returns parameters, optimizer state, TD errors (batch_size,) and metrics.
        """

        def learn(params: Any, opt_state: Any) -> tuple[Any, Any, Array, Array]:
            grad = jax.value_and_grad(self.loss, has_aux=True)
            (loss, (q_value, td_error)), grads = grad(params, target_params, minibatch)
            params, opt_state, _ = update_params(self.optimizer, grads, opt_state, params)
            values = jnp.stack([loss, q_value.mean(), optax.tree.norm(grads)])
            return params, opt_state, td_error, values

        def wait(params: Any, opt_state: Any) -> tuple[Any, Any, Array, Array]:
            return params, opt_state, jnp.zeros(self.batch_size), jnp.zeros(3)

        learns = state.step >= self.learning_starts
        params, opt_state, td_error, values = jax.lax.cond(
            learns, learn, wait, state.params, state.opt_state
        )
        count = learns.astype(jnp.float32)
        names = ("loss", "q_value", "grad_norm")
        metrics: Metrics = {name: Mean(values[n], count) for n, name in enumerate(names)}
        return params, opt_state, td_error, metrics

    def loss(
        self, params: Any, target_params: Any, minibatch: Batch
    ) -> tuple[Array, tuple[Array, Array]]:
        """Half the mean squared TD error of the minibatch; its actions' Q-values and TD errors."""
        params = gather_params(params)
        td_target = self.td_target(params, target_params, minibatch)
        q_value = value_of_action(self.q_values(params, minibatch["obs"]), minibatch["action"])
        td_error = q_value - td_target
        squared = jnp.square(td_error)
        if self.prioritized:
            squared = minibatch["weight"] * squared
        return 0.5 * squared.mean(), (q_value, td_error)

    def td_target(self, params: Any, target_params: Any, minibatch: Batch) -> Array:
        """The reward plus the discounted value of the next observation, (batch_size,)."""
        next_q_values = self.q_values(target_params, minibatch["next_obs"])
        if self.double:
            next_action = self.q_values(params, minibatch["next_obs"]).argmax(-1)
            next_value = value_of_action(next_q_values, next_action)
        else:
            next_value = next_q_values.max(-1)
        return minibatch["reward"] + self.gamma * jnp.where(minibatch["terminated"], 0, next_value)

    def q_values(self, params: Any, obs: Array) -> Array:
        """The Q-values (N, actions) at observations (N, ...)."""
        return policy_and_value(self.model, {"params": params}, obs)[0]

    def check_steps(self, steps: int) -> None:
        """Raises `Error` where a run ends before `learning_starts`, or a schedule is wrong."""
        check_learning_starts(self.learning_starts, steps)
        check_schedule("epsilon", self.epsilon, steps)
        if self.prioritized:
            check_schedule("beta", self.prioritized.beta, steps)


def value_of_action(q_values: Array, action: Array) -> Array:
    """The Q-values (N,) of the actions (N,), out of those of all actions (N, actions)."""
    return jnp.take_along_axis(q_values, action[:, None], -1)[:, 0]
