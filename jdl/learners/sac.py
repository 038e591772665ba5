"""Soft actor-critic (SAC): off-policy continuous control with an entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import (
    Box,
    Environment,
    Episodes,
    SquashedBox,
    Transition,
    observe_episodes,
)
from jdl.keys import stream
from jdl.layers import gather_params
from jdl.learners.descent import new_state, update_params
from jdl.learners.replay import (
    REPLAY_BUFFER,
    add_to_buffer,
    check_learning_starts,
    check_replay_sizes,
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
from jdl.objectives import model_call
from jdl.objectives.episodes import EpisodeReturn, check_numbers, policy_and_value, refuse_recurrent
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Learner,
    Mean,
    Metrics,
    State,
    Variables,
)

ACTOR, CRITICS, LOG_TEMPERATURE = "actor", "critics", "log_temperature"  # in the parameters
TARGET_CRITICS = "target_critics"  # in `State.extra`: the target networks


def sac(
    environment: Environment,
    actor: Any,
    critic: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int = 1,
    num_updates: int = 1,
    buffer_size: int = 100_000,
    batch_size: int = 256,
    learning_starts: int = 1_000,
    gamma: float = 0.99,
    tau: float = 0.005,
    target_entropy: float | None = None,
) -> SAC:
    """Soft actor-critic, SAC (Haarnoja et al., 2018): off-policy control by continuous actions.

    A training step is a rollout of `num_steps` steps in each of the parallel environments, then
    `num_updates` updates on `batch_size` transitions each, sampled from the replay buffer of the
    `buffer_size` newest. Train on `jdl.data.episodes(n)`, for n environments in parallel. Actions
    are uniformly random, and nothing is learnt, before training step `learning_starts`, which must
    be below the run's number of steps. It counts training steps, not environment steps as in
    CleanRL: divide CleanRL's number by `num_steps` times n.

    - The actor gives the policy (B, 2n) of `SquashedBox`: means and logs of standard deviations.
    - The twin critics are two copies of `critic`, a model of one input: each observation's numbers
      followed by the n of the action, normalized to between -1 and 1. It gives Q-values (B, 1).
      The smaller one counts. The target networks follow the critics with the rate `tau`.
      The two are stacked, so `jdl.optim.adamw` decays their biases as well.
    - The temperature, the weight of the entropy bonus, is learnt such that the policy's entropy is
      `target_entropy`, in nats, of normalized actions; by default -n.

    The optimizer updates all three at once: `jdl.optim.per_module(actor=..., critics=...,
    log_temperature=...)` gives each its own. Models have no variables but parameters. Evaluation
    is by `jdl.objectives.episode_return`, with the tanh of the mean as action. Metrics of a step:
    `return` and `length` of the episodes that ended in it (NaN, logged as null, if none did),
    critic_loss (half the squared TD error, of both), actor_loss, temperature_loss, loss (their
    sum), temperature, entropy, q_value, grad_norm and param_norm.
    """
    refuse_recurrent("SAC", actor, critic)
    space = environment.action_space
    if not isinstance(space, Box):
        raise Error(f"SAC needs a continuous action space, got {space}: use DQN or PPO for it.")
    return SAC(
        environment=replace(environment, action_space=SquashedBox(space.low, space.high)),
        actor=actor,
        critic=critic,
        optimizer=optimizer,
        num_steps=num_steps,
        num_updates=num_updates,
        buffer_size=buffer_size,
        batch_size=batch_size,
        learning_starts=learning_starts,
        gamma=gamma,
        tau=tau,
        target_entropy=-float(len(space.low)) if target_entropy is None else target_entropy,
    )


@dataclass(frozen=True, eq=False)
class ActorReturn(EpisodeReturn):
    """The return of an episode by the actor, `model`, out of an actor and its critics."""

    critic: Any

    def init(self, key: Key, batch: Batch) -> Variables:
        """The actor's variables, those of two critics, and the log of the temperature."""
        actor = super().init(key, batch)
        inputs = self.critic_inputs(key, batch)
        critics = jax.vmap(lambda key: model_call.init(self.critic, key, batch, inputs))(
            jax.random.split(stream(key, "critics"), 2)
        )
        names = actor.keys() | critics.keys()
        both = {n: {ACTOR: actor.get(n, {}), CRITICS: critics.get(n, {})} for n in names}
        both["params"][LOG_TEMPERATURE] = jnp.zeros(())
        return both

    def critic_inputs(self, key: Key, batch: Batch) -> Array:
        """A critic's input at the start of an episode for each row of the batch."""
        obs = observe_episodes(self.environment, init_episodes(self.environment, key, batch))
        space = self.environment.action_space
        return obs_and_action(obs, space.mode(jnp.zeros((len(obs), space.num_params))))

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the actor does not fit the action space, or a critic has no value."""

        def q_value_of(key: Key, batch: Batch) -> Array:
            inputs = self.critic_inputs(key, batch)
            variables = model_call.init(self.critic, key, batch, inputs)
            return policy_and_value(self.critic, variables, inputs)[0]

        super().check(spec, bounds)
        q_value = jax.eval_shape(q_value_of, jax.eval_shape(jax.random.key, 0), spec)
        if q_value.shape != (len(spec["id"]), 1):
            raise Error(
                f"The critic gives an output of shape {q_value.shape} for {len(spec['id'])} rows, "
                "and it is to give one Q-value each: give it one output."
            )

    def greedy_action(
        self, variables: Variables, obs: Array, policy_state: Any
    ) -> tuple[Array, Any]:
        """The greedy policy: the tanh of the mean."""
        return super().greedy_action({"params": variables["params"][ACTOR]}, obs, policy_state)


@dataclass(frozen=True, eq=False)
class SAC(Learner):
    """Soft actor-critic; see `sac`.

    `State.params` are those of the actor and of the twin critics, whose arrays have a leading axis
    of two, and the log of the temperature. `State.extra` has the episodes in progress, the target
    networks and the replay buffer.
    """

    environment: Environment
    actor: Any
    critic: Any
    optimizer: optax.GradientTransformation
    num_steps: int
    num_updates: int
    buffer_size: int
    batch_size: int
    learning_starts: int
    gamma: float
    tau: float
    target_entropy: float
    has_grads = False

    def __post_init__(self) -> None:
        """Raises `Error` for sizes and rates out of range."""
        check_numbers(self)
        sizes = ("num_steps", "num_updates", "buffer_size", "batch_size")
        least = min(getattr(self, name) for name in sizes)
        rates = 0 <= self.gamma <= 1 and 0 < self.tau <= 1
        if least < 1 or self.learning_starts < 0 or not rates:
            raise Error(
                f"{', '.join(sizes)} must be at least 1, learning_starts at least 0, gamma from 0 "
                "to 1, and tau above 0 and at most 1; got "
                f"{values_of(self, *sizes, 'learning_starts', 'gamma', 'tau')}."
            )
        check_replay_sizes(self.buffer_size, self.batch_size)

    @property
    def objective(self) -> ActorReturn:  # type: ignore[override]
        """The objective of evaluation: the return of an episode."""
        return ActorReturn(self.environment, self.actor, self.critic)

    def init(self, key: Key, batch: Batch) -> State:
        """Initial parameters, the target networks as their copy, and an empty replay buffer."""
        params = init_params(self.objective, key, batch)
        episodes = init_episodes(self.environment, key, batch)
        extra = {
            EPISODES: episodes,
            # A copy, because the same buffer cannot be donated twice.
            TARGET_CRITICS: jax.tree.map(jnp.copy, params[CRITICS]),
            REPLAY_BUFFER: init_buffer(
                self.environment, episodes, self.num_steps, self.buffer_size
            ),
        }
        return new_state(params, {}, self.optimizer.init(params), key, **extra)

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """A rollout into the replay buffer, then updates on transitions sampled from it."""
        key = stream(state.key, "sac", state.step)
        episodes, transitions = self.collect_rollout(state, key)
        buffer = add_to_buffer(state.extra[REPLAY_BUFFER], transitions, state.step)
        filled = filled_rows(buffer, transitions, state.step)
        params, opt_state, targets, metrics = self.update(state, buffer, filled, key)
        extra = {EPISODES: episodes, TARGET_CRITICS: targets, REPLAY_BUFFER: buffer}
        return end_step(state, params, opt_state, extra, metrics, transitions)

    def collect_rollout(self, state: State, key: Key) -> tuple[Episodes, Transition]:
        """A rollout with sampled actions, at first uniformly random: transitions (T, B, ...)."""
        learns, actor = state.step >= self.learning_starts, gather_params(state.params[ACTOR])

        def sample_action(obs: Array, keys: Key) -> Array:
            policy = self.policy(actor, obs)
            action = jax.vmap(self.environment.action_space.sample)(policy, keys)

            def uniform(key: Key) -> Array:
                shape = action.shape[1:]
                return jax.random.uniform(stream(key, "random_action"), shape, minval=-1.0)

            return jnp.where(learns, action, jax.vmap(uniform)(keys))

        return collect(self.environment, sample_action, state.extra[EPISODES], key, self.num_steps)

    def update(
        self, state: State, buffer: Batch, filled: Array, key: Key
    ) -> tuple[Any, Any, Any, Metrics]:
        """The step's updates, from step `learning_starts` on.

        Returns parameters, optimizer state, target networks and metrics.
        """

        def next_update(carry: tuple[Any, Any, Any], n: Array) -> tuple[Any, dict[str, Array]]:
            indices = sample_uniform(filled, stream(key, "replay", n), self.batch_size)
            minibatch = {name: column[indices] for name, column in buffer.items()}
            return self.update_minibatch(*carry, minibatch, stream(key, "actions", n))

        def learn(*carry: Any) -> tuple[Any, dict[str, Array]]:
            return jax.lax.scan(next_update, carry, jnp.arange(self.num_updates))

        def wait(*carry: Any) -> tuple[Any, dict[str, Array]]:
            spec = jax.eval_shape(learn, *carry)[1]
            return carry, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), spec)

        learns = state.step >= self.learning_starts
        carry = (state.params, state.opt_state, state.extra[TARGET_CRITICS])
        (params, opt_state, targets), values = jax.lax.cond(learns, learn, wait, *carry)
        mask = jnp.broadcast_to(learns, (self.num_updates,))
        metrics: Metrics = {name: Mean.of(value, mask) for name, value in values.items()}
        return params, opt_state, targets, metrics

    def update_minibatch(
        self, params: Any, opt_state: Any, target_critics: Any, minibatch: Batch, key: Key
    ) -> tuple[tuple[Any, Any, Any], dict[str, Array]]:
        """One gradient step on a minibatch, after which the target networks follow the critics."""
        grad = jax.value_and_grad(self.loss, has_aux=True)
        (loss, parts), grads = grad(params, target_critics, minibatch, key)
        params, opt_state, _ = update_params(self.optimizer, grads, opt_state, params)
        target_critics = optax.incremental_update(params[CRITICS], target_critics, self.tau)
        parts |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return (params, opt_state, target_critics), parts

    def loss(
        self, params: Any, target_critics: Any, minibatch: Batch, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        """The losses of critics, actor and temperature, added up, and the parts by name.

        Each has a gradient to its own parameters alone, so the gradients stand side by side.
        """
        params = gather_params(params)
        constant = jax.lax.stop_gradient(params)
        td_target = self.td_target(constant, target_critics, minibatch, stream(key, "next_action"))
        q_values = self.q_values(params[CRITICS], minibatch["obs"], minibatch["action"])
        critic_loss = 0.5 * jnp.square(q_values - td_target[None]).mean(1).sum()

        action, log_prob = self.sample(params[ACTOR], minibatch["obs"], stream(key, "action"))
        q_value = self.q_values(constant[CRITICS], minibatch["obs"], action).min(0)
        temperature = jnp.exp(constant[LOG_TEMPERATURE])
        actor_loss = (temperature * log_prob - q_value).mean()

        entropy = -jax.lax.stop_gradient(log_prob).mean()
        temperature_loss = jnp.exp(params[LOG_TEMPERATURE]) * (entropy - self.target_entropy)
        return critic_loss + actor_loss + temperature_loss, {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "temperature_loss": temperature_loss,
            "temperature": temperature,
            "entropy": entropy,
            "q_value": q_value.mean(),
        }

    def td_target(self, params: Any, target_critics: Any, minibatch: Batch, key: Key) -> Array:
        """The reward plus the discounted soft value of the next observation, (batch_size,)."""
        next_obs = minibatch["next_obs"]
        action, log_prob = self.sample(params[ACTOR], next_obs, key)
        q_value = self.q_values(target_critics, next_obs, action).min(0)
        soft_value = q_value - jnp.exp(params[LOG_TEMPERATURE]) * log_prob
        return minibatch["reward"] + self.gamma * jnp.where(minibatch["terminated"], 0, soft_value)

    def policy(self, actor: Any, obs: Array) -> Array:
        """The policy (N, 2n) at observations (N, ...)."""
        return policy_and_value(self.actor, {"params": actor}, obs)[0]

    def sample(self, actor: Any, obs: Array, key: Key) -> tuple[Array, Array]:
        """Sampled actions (N, n) at observations (N, ...), and their log-probabilities (N,)."""
        space = self.environment.action_space
        assert isinstance(space, SquashedBox)
        return space.sample_and_log_prob(self.policy(actor, obs), key)

    def q_values(self, critics: Any, obs: Array, action: Array) -> Array:
        """The Q-values (2, N) of both critics, for actions (N, n) at observations (N, ...)."""
        inputs = obs_and_action(obs, action)

        def one(critic: Any) -> Array:
            return policy_and_value(self.critic, {"params": critic}, inputs)[0][:, 0]

        return jax.vmap(one)(critics)

    def check_steps(self, steps: int) -> None:
        """Raises `Error` where a run of so many steps ends before `learning_starts`."""
        check_learning_starts(self.learning_starts, steps)


def obs_and_action(obs: Array, action: Array) -> Array:
    """A critic's input (N, features + n): the observations (N, ...), flattened, and the actions."""
    return jnp.concatenate([obs.reshape(len(obs), -1), action], -1)
