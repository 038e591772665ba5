"""Proximal policy optimization (PPO), with generalized advantage estimation (GAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Environment, Transition, recurrent_rollout
from jdl.keys import stream
from jdl.layers import gather_params
from jdl.learners.descent import new_state, update_params
from jdl.learners.rl import (
    EPISODES,
    end_step,
    init_episodes,
    init_params,
    step_keys,
    to_rows,
    to_sequences,
    values_of,
)
from jdl.objectives.episodes import (
    EpisodeReturn,
    check_numbers,
    initial_policy_state,
    is_recurrent,
    policy_and_value,
    sequence_policy,
    step_policy,
)
from jdl.types import Array, Batch, Error, Key, Learner, Mean, Metrics, State

POLICY_STATE = "policy_state"  # in `State.extra`: hidden states of a recurrent policy, (B, ...)


def ppo(
    environment: Environment,
    model: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int = 128,
    update_epochs: int = 4,
    num_minibatches: int = 4,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    clip_eps: float = 0.2,
    entropy_coef: float = 0.01,
    value_coef: float = 0.5,
) -> PPO:
    """Proximal policy optimization, PPO (Schulman et al., 2017): an on-policy actor-critic.

    A training step is a rollout of `num_steps` steps in each of the parallel environments, then
    `update_epochs` passes over its transitions in `num_minibatches` minibatches, with one optimizer
    update each: a learning rate schedule advances by their product in a training step. Train on
    `jdl.data.episodes(n)`, for n environments in parallel. The model, such as `ActorCritic`, gives
    the policy (B, P), with P = `action_space.num_params`, and the value function (B,); it has no
    variables but parameters.

    With a recurrent policy, such as `RecurrentActorCritic`, a minibatch has the whole sequences of
    some of the environments instead of single transitions (as CleanRL's ppo_atari_lstm). They begin
    with the rollout's first hidden states, computed once, with zeros where an episode begins. The
    gradient goes back to the start of the rollout (truncated backpropagation through time).

    - Advantages are by GAE with the discount factor `gamma` and `gae_lambda`, normalized in each
      minibatch. A truncated episode is bootstrapped with the value of its last observation.
    - `clip_eps` clips the probability ratio, and how far a value moves from that of the rollout.
    - The loss is that of the policy, plus `value_coef` times half the squared error of the values,
      minus `entropy_coef` times the entropy in nats.

    Evaluation is by `jdl.objectives.episode_return`. Metrics of a step: `return` and `length` of
    the episodes that ended in it (NaN, logged as null, if none did), policy_loss, value_loss,
    entropy, clip_fraction (the share of ratios that were clipped), loss, grad_norm and param_norm.
    """
    return PPO(
        environment=environment,
        model=model,
        optimizer=optimizer,
        num_steps=num_steps,
        update_epochs=update_epochs,
        num_minibatches=num_minibatches,
        gamma=gamma,
        gae_lambda=gae_lambda,
        clip_eps=clip_eps,
        entropy_coef=entropy_coef,
        value_coef=value_coef,
    )


@dataclass(frozen=True, eq=False)
class PPO(Learner):
    """Proximal policy optimization; see `ppo`.

    `State.extra` has the episodes in progress, and a recurrent policy's hidden states.
    """

    environment: Environment
    model: Any
    optimizer: optax.GradientTransformation
    num_steps: int
    update_epochs: int
    num_minibatches: int
    gamma: float
    gae_lambda: float
    clip_eps: float
    entropy_coef: float
    value_coef: float
    has_grads = False

    def __post_init__(self) -> None:
        """Raises `Error` for sizes and rates out of range."""
        check_numbers(self)
        sizes = ("num_steps", "update_epochs", "num_minibatches")
        if min(getattr(self, name) for name in sizes) < 1:
            raise Error(f"{', '.join(sizes)} must be at least 1; got {values_of(self, *sizes)}.")
        rates = 0 <= self.gamma <= 1 and 0 <= self.gae_lambda <= 1
        if not rates or self.clip_eps <= 0:
            raise Error(
                "gamma and gae_lambda must be from 0 to 1, and clip_eps above 0; got "
                f"{values_of(self, 'gamma', 'gae_lambda', 'clip_eps')}."
            )

    @property
    def objective(self) -> EpisodeReturn:  # type: ignore[override]
        """The objective of evaluation: the return of an episode."""
        return EpisodeReturn(self.environment, self.model)

    def init(self, key: Key, batch: Batch) -> State:
        """Initial parameters, and an episode for each row of the batch."""
        episodes = len(batch["id"])
        transitions = episodes * self.num_steps
        if is_recurrent(self.model) and episodes % self.num_minibatches:
            raise Error(
                f"{episodes} parallel environments are no multiple of the {self.num_minibatches} "
                "minibatches, which have whole sequences with a recurrent policy: change "
                "num_minibatches, or the number of environments, jdl.data.episodes(n)."
            )
        if transitions % self.num_minibatches:
            raise Error(
                f"{self.num_steps} steps of {episodes} episodes are {transitions} transitions, "
                f"which is no multiple of the {self.num_minibatches} minibatches: "
                "change num_steps or num_minibatches."
            )
        if transitions == self.num_minibatches:
            raise Error(
                f"Minibatches of one transition cannot be normalized: take fewer than "
                f"{self.num_minibatches} minibatches, or more steps."
            )
        params = init_params(self.objective, key, batch)
        extra = {EPISODES: init_episodes(self.environment, key, batch)}
        if is_recurrent(self.model):
            extra[POLICY_STATE] = initial_policy_state(self.model, episodes)
        return new_state(params, {}, self.optimizer.init(params), key, **extra)

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """A rollout, the advantages of its transitions, and epochs of minibatch updates."""
        key = stream(state.key, "ppo", state.step)
        extra, transitions = self.collect_rollout(state, key)
        rows = self.training_rows(state, transitions)
        params, opt_state, of_updates = self.update(state, rows, key)
        metrics: Metrics = {name: Mean.of(values) for name, values in of_updates.items()}
        return end_step(state, params, opt_state, extra, metrics, transitions)

    def collect_rollout(self, state: State, key: Key) -> tuple[dict[str, Any], Transition]:
        """A rollout with actions sampled from the policy: transitions (T, B, ...).

        The first result is for `State.extra`: the episodes, and the hidden states, after it.
        """
        variables, episodes = {"params": gather_params(state.params)}, state.extra[EPISODES]

        def sample_action(obs: Array, keys: Key, policy_state: Any) -> tuple[Array, Any]:
            policy, _, policy_state = step_policy(self.model, variables, obs, policy_state)
            return jax.vmap(self.environment.action_space.sample)(policy, keys), policy_state

        before, keys = state.extra.get(POLICY_STATE, ()), step_keys(episodes, key)
        episodes, after, transitions = recurrent_rollout(
            self.environment, sample_action, episodes, before, keys, self.num_steps
        )
        hidden = {POLICY_STATE: after} if is_recurrent(self.model) else {}
        return {EPISODES: episodes, **hidden}, transitions

    def training_rows(self, state: State, transitions: Transition) -> Batch:
        """What the updates learn from: a batch whose rows are the T * B transitions.

        Of a recurrent policy the rows are the B sequences of T transitions, with the hidden states
        before them. Both get advantages and targets.
        """
        recurrent = is_recurrent(self.model)
        arrange = to_sequences if recurrent else to_rows
        rows: Batch = {"obs": arrange(transitions.obs), "action": arrange(transitions.action)}
        if recurrent:
            rows["start"] = arrange(jnp.roll(transitions.done, 1, 0).at[0].set(False))
            rows["states"] = state.extra[POLICY_STATE]
        params = gather_params(state.params)
        policy, value = self.policy_and_value(params, rows)
        by_step = value.T if recurrent else value.reshape(transitions.reward.shape)  # (T, B)
        next_value = self.next_values(params, transitions)
        advantage = arrange(gae(transitions, by_step, next_value, self.gamma, self.gae_lambda))
        rows["log_prob"] = self.environment.action_space.log_prob(policy, rows["action"])
        return {**rows, "value": value, "advantage": advantage, "target": advantage + value}

    def policy_and_value(self, params: Any, rows: Batch) -> tuple[Array, Array]:
        """The policy (N, P) and the value function (N,) at the observations of N rows.

        Of a recurrent policy's sequences they are (N, T, P) and (N, T).
        """
        variables, value = {"params": params}, None
        if is_recurrent(self.model):
            inputs = rows["obs"], rows["start"], rows["states"]
            policy, value, _ = sequence_policy(self.model, variables, *inputs)
        else:
            policy, value = policy_and_value(self.model, variables, rows["obs"])
        if value is None:
            raise Error("PPO needs a model that gives policies and values, such as ActorCritic.")
        return policy, value

    def next_values(self, params: Any, transitions: Transition) -> Array:
        """The value function (T, B) after each transition, even where an episode ended there."""
        next_obs, policy_state = jax.tree.map(
            to_rows, (transitions.next_obs, transitions.policy_state)
        )
        value = step_policy(self.model, {"params": params}, next_obs, policy_state)[1]
        assert value is not None  # see `policy_and_value`
        return value.reshape(transitions.reward.shape)

    def update(self, state: State, rows: Batch, key: Key) -> tuple[Any, Any, dict[str, Array]]:
        """All epochs of minibatch updates: parameters, optimizer state, metrics of each update."""
        keys = jax.random.split(stream(key, "permutation"), self.update_epochs)
        orders = jax.vmap(jax.random.permutation, (0, None))(keys, len(rows["value"]))
        minibatches = orders.reshape(self.update_epochs * self.num_minibatches, -1)

        def next_update(
            carry: tuple[Any, Any], indices: Array
        ) -> tuple[tuple[Any, Any], dict[str, Array]]:
            minibatch = jax.tree.map(lambda column: column[indices], rows)
            return self.update_minibatch(*carry, minibatch)

        start = (state.params, state.opt_state)
        (params, opt_state), of_updates = jax.lax.scan(next_update, start, minibatches)
        return params, opt_state, of_updates

    def update_minibatch(
        self, params: Any, opt_state: Any, minibatch: Batch
    ) -> tuple[tuple[Any, Any], dict[str, Array]]:
        """One gradient step on a minibatch."""
        grad = jax.value_and_grad(self.loss, has_aux=True)
        (loss, parts), grads = grad(params, minibatch)
        params, opt_state, _ = update_params(self.optimizer, grads, opt_state, params)
        return (params, opt_state), {**parts, "loss": loss, "grad_norm": optax.tree.norm(grads)}

    def loss(self, params: Any, minibatch: Batch) -> tuple[Array, dict[str, Array]]:
        """PPO's loss on a minibatch, and its parts by name."""
        policy, value = self.policy_and_value(gather_params(params), minibatch)
        policy_loss, clip_fraction = self.policy_loss(policy, minibatch)
        value_loss = self.value_loss(value, minibatch)
        entropy = self.environment.action_space.entropy(policy).mean()
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "clip_fraction": clip_fraction,
        }

    def policy_loss(self, policy: Array, minibatch: Batch) -> tuple[Array, Array]:
        """The negative clipped surrogate objective, and the share of ratios that were clipped."""
        log_prob = self.environment.action_space.log_prob(policy, minibatch["action"])
        ratio = jnp.exp(log_prob - minibatch["log_prob"])
        advantage = minibatch["advantage"]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped_ratio = ratio.clip(1 - self.clip_eps, 1 + self.clip_eps)
        loss = -jnp.minimum(advantage * ratio, advantage * clipped_ratio).mean()
        return loss, (jnp.abs(ratio - 1) > self.clip_eps).astype(jnp.float32).mean()

    def value_loss(self, value: Array, minibatch: Batch) -> Array:
        """Half the mean squared error of the values, clipped."""
        old_value, target = minibatch["value"], minibatch["target"]
        clipped_value = old_value + (value - old_value).clip(-self.clip_eps, self.clip_eps)
        errors = jnp.maximum(jnp.square(value - target), jnp.square(clipped_value - target))
        return 0.5 * errors.mean()


def gae(
    transitions: Transition, value: Array, next_value: Array, gamma: float, gae_lambda: float
) -> Array:
    """Generalized advantage estimation, GAE (Schulman et al., 2016): advantages (T, B).

    The advantage of a step is the sum of the TD errors from it to the end of its episode,
    discounted by `gamma * gae_lambda` a step. `value` and `next_value` (T, B) are the value
    function at `obs` and at `next_obs`. After a step that terminated its episode, the next value
    counts as 0; after one that truncated it, as `next_value`.
    """
    next_value = jnp.where(transitions.terminated, 0, next_value)
    td_error = transitions.reward + gamma * next_value - value

    def accumulate(next_advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        td_error, done = step
        advantage = td_error + gamma * gae_lambda * jnp.where(done, 0, next_advantage)
        return advantage, advantage

    start = jnp.zeros_like(value[0])
    return jax.lax.scan(accumulate, start, (td_error, transitions.done), reverse=True)[1]
