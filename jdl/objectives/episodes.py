"""Reinforcement learning's objectives: the return of an episode, and REINFORCE."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import (
    Environment,
    Episodes,
    Transition,
    check_environment,
    fold_in_rows,
    observe_episodes,
    reset_episodes,
    rollout,
    step_episodes,
)
from jdl.keys import stream
from jdl.layers import row_keys
from jdl.objectives import model_call
from jdl.objectives.model_keywords import name_of
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Objective,
    Variables,
)


def episode_return(environment: Environment, model: Any) -> EpisodeReturn:
    """The return of an episode, the sum of its rewards: how reinforcement learning is evaluated.

    Each row of a batch (`jdl.data.episodes`) is one episode of the greedy policy: at each step the
    action with the largest logit or Q-value, or the mean action. The loss is the negative return;
    the metrics are `return` and `length`. The model reads observations (B, ...) and gives the
    policy (B, P), or the policy and the values (B,): see `policy_and_value`. Predictions: the
    greedy actions for observations x; of a recurrent policy for sequences x (B, T, ...) of them,
    each from the beginning of an episode.
    """
    return EpisodeReturn(environment, model)


def reinforce(
    environment: Environment,
    model: Any,
    gamma: float = 0.99,
    value_coef: float = 0.5,
    entropy_coef: float = 0.0,
) -> Reinforce:
    """REINFORCE, the Monte Carlo policy gradient (Williams, 1992), for `jdl.descent`.

    In training each row of a batch is one episode with sampled actions. Its loss is the sum over
    the steps of -log p(action) times the advantage: the return from the step on, with the discount
    factor `gamma`, minus the model's value if it gives one (a baseline). The value is trained too,
    with half its squared error times `value_coef`. `entropy_coef` is the weight of the entropy
    bonus, in nats a step. Metrics: `return` and `length`. Evaluation is that of `episode_return`.
    """
    refuse_recurrent("REINFORCE", model)
    return Reinforce(environment, model, gamma, value_coef, entropy_coef)


@dataclass(frozen=True, eq=False)
class EpisodeReturn(Objective):
    """The return of an episode by the greedy policy; see `episode_return`."""

    environment: Environment
    model: Any

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables, for observations of the environment."""
        inputs = self._first_inputs(stream(key, "reset"), _num_rows(batch))
        return model_call.init(self.model, key, batch, *inputs)

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean negative return of the rows' episodes; metrics: return and length."""
        rows = _num_rows(batch)
        keys = row_keys(stream(key, "steps"), rows)
        first = _Evaluation(
            t=jnp.zeros((), jnp.int32),
            episodes=self._reset(stream(key, "reset"), rows),
            policy_state=initial_policy_state(self.model, rows),
            in_progress=jnp.ones(rows, bool),
            return_and_length=jnp.zeros((rows, 2)),
        )

        def step(now: _Evaluation) -> _Evaluation:
            obs = observe_episodes(self.environment, now.episodes)
            actions, policy_state = self.greedy_action(variables, obs, now.policy_state)
            episodes, result = step_episodes(
                self.environment, now.episodes, actions, fold_in_rows(keys, now.t)
            )
            ends = (now.in_progress & result.done)[:, None]
            length = result.episode_length.astype(jnp.float32)
            final = jnp.stack([result.episode_return, length], 1)
            return _Evaluation(
                t=now.t + 1,
                episodes=episodes,
                policy_state=policy_state,
                in_progress=now.in_progress & ~result.done,
                return_and_length=jnp.where(ends, final, now.return_and_length),
            )

        def unfinished(now: _Evaluation) -> Array:
            return now.in_progress.any() & (now.t < self.environment.max_episode_steps)

        last = jax.lax.while_loop(unfinished, step, first)
        total, length = (Mean.of(last.return_and_length[:, n], batch.get("mask")) for n in range(2))
        metrics: Metrics = {"return": total, "length": length}
        return LossOutput(Mean(-total.total, total.count), metrics, _model_state(variables))

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The greedy action for each observation x, as the environment takes it."""
        obs, space = model_call.column(batch), self.environment.action_space
        if is_recurrent(self.model):
            start, states = jnp.zeros(obs.shape[:2], bool), self.model.initial_states(len(obs))
            policy = sequence_policy(self.model, variables, obs, start, states)[0]
            return {"action": space.unnormalize(space.mode(policy))}
        return {"action": space.unnormalize(self.greedy_action(variables, obs, ())[0])}

    def greedy_action(
        self, variables: Variables, obs: Array, policy_state: Any
    ) -> tuple[Array, Any]:
        """The greedy policy: the mode of the action distribution, or the largest Q-value.

        Also returns the hidden states after it, () without a recurrent policy.
        """
        policy, _, policy_state = step_policy(self.model, variables, obs, policy_state)
        return self.environment.action_space.mode(policy), policy_state

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the environment is wrong, or the policy does not fit its actions."""
        check_environment(self.environment)

        def policy_of(key: Key, batch: Batch) -> Array:
            inputs = self._first_inputs(key, _num_rows(batch))
            variables = model_call.init(self.model, key, {}, *inputs)
            if is_recurrent(self.model):
                return sequence_policy(self.model, variables, *inputs)[0][:, 0]
            return policy_and_value(self.model, variables, *inputs)[0]

        rows, space = _num_rows(spec), self.environment.action_space
        policy = jax.eval_shape(policy_of, jax.eval_shape(jax.random.key, 0), spec)
        if policy.shape != (rows, space.num_params):
            raise Error(
                f"The model gives a policy of shape {policy.shape} for {rows} observations, and "
                f"the action space {space} takes {space.num_params} numbers each: give the model "
                "as many outputs."
            )

    def _first_inputs(self, key: Key, rows: int) -> tuple[Any, ...]:
        """The model's inputs in the first step of so many episodes."""
        obs = observe_episodes(self.environment, self._reset(key, rows))
        if is_recurrent(self.model):
            return one_step(obs, initial_policy_state(self.model, rows))
        return (obs,)

    def _reset(self, key: Key, rows: int) -> Episodes:
        return reset_episodes(self.environment, row_keys(key, rows))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Evaluation:
    """Loop state of `EpisodeReturn.loss`, which runs one episode in each row until all are done."""

    t: Array  # steps so far
    episodes: Episodes
    policy_state: Any  # of a recurrent policy; not reset, as the first episode alone counts
    in_progress: Array  # (B,)
    return_and_length: Array  # (B, 2), of the episodes that are done


@dataclass(frozen=True, eq=False)
class Reinforce(EpisodeReturn):
    """REINFORCE; see `reinforce`."""

    gamma: float
    value_coef: float
    entropy_coef: float

    def __post_init__(self) -> None:
        """Raises `Error` for what is no number, and a discount factor out of range."""
        check_numbers(self)
        if not 0 <= self.gamma <= 1:
            raise Error(f"gamma, the discount factor, must be from 0 to 1, got {self.gamma}.")

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """In training the policy gradient loss, in evaluation the negative return."""
        if not train:
            return super().loss(variables, batch, key, train)
        transitions = self._collect(jax.lax.stop_gradient(variables), key, _num_rows(batch))
        ends = transitions.done.astype(jnp.int32)
        real = jnp.cumsum(ends, 0) - ends == 0  # (T, B): steps of the first episode of each row
        rewards = jnp.where(real, transitions.reward, 0)
        losses = self._step_losses(variables, transitions, discounted_returns(rewards, self.gamma))
        mask = batch.get("mask")
        metrics: Metrics = {
            "return": Mean.of(rewards.sum(0), mask),
            "length": Mean.of(real.sum(0).astype(jnp.float32), mask),
        }
        loss = Mean.of(jnp.where(real, losses, 0).sum(0), mask)
        return LossOutput(loss, metrics, _model_state(variables))

    def _collect(self, variables: Variables, key: Key, rows: int) -> Transition:
        """A rollout (T, B, ...) with sampled actions, as long as the longest possible episode."""
        space = self.environment.action_space

        def sample_action(obs: Array, keys: Key) -> Array:
            policy, _ = policy_and_value(self.model, variables, obs)
            return jax.vmap(space.sample)(policy, keys)

        episodes = self._reset(stream(key, "reset"), rows)
        keys = row_keys(stream(key, "steps"), rows)
        steps = self.environment.max_episode_steps
        return rollout(self.environment, sample_action, episodes, keys, steps)[1]

    def _step_losses(self, variables: Variables, transitions: Transition, returns: Array) -> Array:
        """The loss of each step, (T, B), given the discounted returns (T, B) from that step on."""
        space, (steps, rows) = self.environment.action_space, returns.shape
        obs = transitions.obs.reshape(-1, *transitions.obs.shape[2:])
        policy, value = policy_and_value(self.model, variables, obs)
        policy = policy.reshape(steps, rows, -1)
        advantage, value_loss = returns, jnp.zeros(returns.shape)
        if value is not None:
            value = value.reshape(steps, rows)
            advantage = returns - jax.lax.stop_gradient(value)
            value_loss = 0.5 * self.value_coef * optax.squared_error(value, returns)
        policy_gain = space.log_prob(policy, transitions.action) * advantage
        return value_loss - (policy_gain + self.entropy_coef * space.entropy(policy))


def discounted_returns(rewards: Array, gamma: float) -> Array:
    """Discounted returns (reward-to-go), (T, B): from each step on, of the rewards (T, B)."""

    def accumulate(next_return: Array, reward: Array) -> tuple[Array, Array]:
        discounted = reward + gamma * next_return
        return discounted, discounted

    return jax.lax.scan(accumulate, jnp.zeros(rewards.shape[1]), rewards, reverse=True)[1]


def policy_and_value(model: Any, variables: Variables, obs: Array) -> tuple[Array, Array | None]:
    """The policy (B, P) for observations (B, ...), and the values (B,) or None if there are none.

    The policy is the parameters of the distribution of actions, P = `action_space.num_params`:
    logits or Q-values for `Discrete`, means and logs of standard deviations for `Box`.
    """
    out, _ = model_call.apply(model, variables, (obs,), {}, jax.random.key(0), False)
    return out if isinstance(out, tuple) else (out, None)


def is_recurrent(model: Any) -> bool:
    """Whether the model is a recurrent policy, as `RecurrentActorCritic` is: it has states."""
    return hasattr(model, "initial_states")


def refuse_recurrent(algorithm: str, *models: Any) -> None:
    """Raises `Error` where a model is recurrent, for an algorithm that cannot train it."""
    for model in filter(is_recurrent, models):
        raise Error(
            f"{name_of(model)} is a recurrent policy, which {algorithm} does not support: "
            "use jdl.ppo."
        )


def initial_policy_state(model: Any, rows: int) -> Any:
    """The hidden states (rows, ...) of a recurrent policy before an episode; () of others."""
    return model.initial_states(rows) if is_recurrent(model) else ()


def step_policy(
    model: Any, variables: Variables, obs: Array, policy_state: Any
) -> tuple[Array, Array | None, Any]:
    """One step of a policy: `policy_and_value` at obs (B, ...), and the hidden states after it."""
    if not is_recurrent(model):
        return *policy_and_value(model, variables, obs), policy_state
    policy, value, states = sequence_policy(model, variables, *one_step(obs, policy_state))
    return policy[:, 0], value[:, 0], states


def sequence_policy(
    model: Any, variables: Variables, obs: Array, start: Array, states: Any
) -> tuple[Array, Array, Any]:
    """A recurrent policy over sequences obs (B, T, ...), from the hidden `states` before them.

    Gives the policies (B, T, P), the values (B, T) and the hidden states after the sequences. An
    episode begins at the steps where `start` (B, T) is true.
    """
    inputs = (obs, start, states)
    match model_call.apply(model, variables, inputs, {}, jax.random.key(0), False)[0]:
        case ((policy, value), states):
            return policy, value, states
    raise Error(
        f"{name_of(model)} has initial_states, so it is a recurrent policy, and is to give "
        "((policies, values), states), as RecurrentActorCritic does."
    )


def one_step(obs: Array, policy_state: Any) -> tuple[Array, Array, Any]:
    """The inputs of a recurrent policy for obs (B, ...), as sequences of one step."""
    return obs[:, None], jnp.zeros((len(obs), 1), bool), policy_state


def _model_state(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != "params"}


def _num_rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def check_numbers(part: Any) -> None:
    """Raises `Error` where a field that is to be a number, by its type, is none."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.type == "int" and not isinstance(value, Integral):
            raise Error(f"{field.name} must be a whole number, not {value!r}.")
        if field.type == "float" and not isinstance(value, Real | jax.Array):
            raise Error(f"{field.name} must be a number, not {value!r}.")
