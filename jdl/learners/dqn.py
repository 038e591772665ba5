"""Deep Q-learning: values of actions, learnt from steps that are kept in the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Discrete, Environment, Episodes, begin, rollout, seen
from jdl.environments.environment import Steps
from jdl.keys import stream
from jdl.learners.ppo import ended, moved_by, trained_alone, view
from jdl.objectives.episodes import play, says
from jdl.types import Array, Batch, Error, Key, Learner, Mean, Metrics, State


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Remembering:
    """The optimizer's state, the older parameters, the episodes under way, and the steps that are remembered."""

    opt_state: Any
    target: Any
    episodes: Episodes
    memory: Batch  # columns (capacity, ...)


def dqn(
    environment: Environment,
    model: Any,
    optimizer: optax.GradientTransformation,
    explore: optax.Schedule,
    horizon: int = 10,
    capacity: int = 10_000,
    batch_size: int = 128,
    begins: int = 1_000,
    refresh: int = 50,
    discount: float = 0.99,
) -> Learner:
    """DQN (Mnih et al., 2015), with as many episodes at once as a batch of `jdl.data.episodes` has rows.

    A step of the learner is `horizon` steps of each episode, then one update by `batch_size` of the `capacity` newest
    steps, from the learner's step `begins` on. An action is drawn at random with the probability `explore(step)`, and
    is else the one of the greatest value. The parameters that values after a step are told by are those at the last
    step that `refresh` divides. The model gives values of actions, (B, count), and carries nothing.

    It is judged by `play`. Metrics of a step: return and length of the episodes that ended in it (means of none are
    null), loss, half the mean squared error, `value`, the mean over what was read, grad_norm and param_norm.
    """
    if not isinstance(environment.actions, Discrete):
        raise Error(
            f"DQN values each of a few actions, and these are {environment.actions}: take PPO for them."
        )
    if min(horizon, capacity, batch_size, refresh) < 1 or begins < 0 or not 0 <= discount <= 1:
        raise Error(
            "horizon, capacity, batch_size and refresh are at least 1, begins at least 0, discount from 0 to 1; given "
            f"were {horizon=}, {capacity=}, {batch_size=}, {refresh=}, {begins=}, {discount=}."
        )
    objective, actions = play(environment, model), environment.actions

    def init(key: Key, batch: Batch) -> State:
        rows = len(batch["id"])
        if capacity % (rows * horizon):
            raise Error(
                f"{horizon} steps of {rows} episodes are {rows * horizon} in all, which do not divide the capacity of "
                f"{capacity}."
            )
        params = trained_alone(objective.init(stream(key, "init"), batch))
        episodes = begin(environment, jax.random.split(stream(key, "reset"), rows))
        x = jnp.zeros((capacity, *seen(environment, episodes).shape[1:]))
        memory = {
            "x": x,
            "after": x,
            "action": jnp.zeros(capacity, jnp.int32),
            "reward": jnp.zeros(capacity),
        }
        memory["terminated"] = jnp.zeros(capacity, bool)
        memory = jax.tree.map(jnp.copy, memory)  # x is given twice, and a donated buffer may not be
        opt_state = Remembering(
            optimizer.init(params), jax.tree.map(jnp.copy, params), episodes, memory
        )
        return State(jnp.zeros((), jnp.int32), params, {}, opt_state, key)

    def kept(memory: Batch, steps: Steps, n: Array) -> Batch:
        moved = steps.moved
        new = {"x": steps.x, "after": moved.after, "action": steps.action, "reward": moved.reward}
        new |= {"terminated": moved.terminated}
        place = n * moved.reward.size % capacity
        return {
            name: jax.lax.dynamic_update_slice_in_dim(
                memory[name], column.reshape(-1, *column.shape[2:]), place, 0
            )
            for name, column in new.items()
        }

    def loss(params: Any, target: Any, rows: Batch) -> tuple[Array, Array]:
        after = says(model, {"params": target}, rows["after"])[0].max(-1)
        wanted = rows["reward"] + discount * jnp.where(rows["terminated"], 0, after)
        values = says(model, {"params": params}, rows["x"])[0]
        value = jnp.take_along_axis(values, rows["action"][:, None], -1)[:, 0]
        return 0.5 * jnp.square(value - wanted).mean(), value.mean()

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key, opt_state = stream(state.key, "dqn", state.step), state.opt_state
        chance = jnp.asarray(explore(state.step), jnp.float32)

        def choose(x: Array, keys: Key) -> Array:
            best = actions.best(says(model, {"params": state.params}, x)[0])

            def one(key: Key, best: Array) -> Array:
                any_of = jax.random.randint(stream(key, "which"), (), 0, actions.count, best.dtype)
                return jnp.where(jax.random.uniform(stream(key, "whether")) < chance, any_of, best)

            return jax.vmap(one)(keys, best)

        keys = jax.random.split(stream(key, "steps"), len(opt_state.episodes.length))
        episodes, steps = rollout(environment, choose, opt_state.episodes, keys, horizon)
        memory = kept(opt_state.memory, steps, state.step)
        filled = jnp.minimum((state.step + 1) * steps.moved.reward.size, capacity)
        rows = jax.random.randint(stream(key, "rows"), (batch_size,), 0, filled)
        target = jax.tree.map(
            lambda a, b: jnp.where(state.step % refresh == 0, a, b), state.params, opt_state.target
        )

        def learnt(params: Any, inner: Any) -> tuple[Any, Any, Array]:
            part = {name: column[rows] for name, column in memory.items()}
            (error, value), grads = jax.value_and_grad(loss, has_aux=True)(params, target, part)
            params, inner = moved_by(optimizer, grads, inner, params)
            return params, inner, jnp.stack([error, value, optax.tree.norm(grads)])

        def waited(params: Any, inner: Any) -> tuple[Any, Any, Array]:
            return params, inner, jnp.zeros(3)

        learns = state.step >= begins
        params, inner, found = jax.lax.cond(
            learns, learnt, waited, state.params, opt_state.opt_state
        )
        count = learns.astype(jnp.float32)
        metrics: Metrics = {
            name: Mean(found[n], count) for n, name in enumerate(("loss", "value", "grad_norm"))
        }
        metrics |= ended(steps) | {"param_norm": Mean.of(optax.tree.norm(params))}
        return State(
            state.step + 1, params, {}, Remembering(inner, target, episodes, memory), state.key
        ), metrics

    return Learner(init, step, objective, view)
