"""Proximal policy optimization: steps of many episodes at once, then a few epochs of small updates by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Environment, Episodes, begin, rollout
from jdl.environments.environment import Steps
from jdl.keys import stream
from jdl.objectives.episodes import play, says
from jdl.types import Array, Batch, Error, Key, Learner, Mean, Metrics, State, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Playing:
    """The optimizer's state, and the episodes under way."""

    opt_state: Any
    episodes: Episodes


def ppo(
    environment: Environment,
    model: Any,
    optimizer: optax.GradientTransformation,
    horizon: int = 128,
    epochs: int = 4,
    minibatches: int = 4,
    discount: float = 0.99,
    trace: float = 0.95,
    clip: float = 0.2,
    entropy: float = 0.01,
    value: float = 0.5,
) -> Learner:
    """PPO (Schulman et al., 2017) of as many episodes at once as a batch of `jdl.data.episodes` has rows.

    A step of the learner is `horizon` steps of each episode and `epochs` * `minibatches` updates of the optimizer, by
    advantages over traces that decay by `trace` (Schulman et al., 2016), normalised in each minibatch. Both the ratio
    of probabilities and the values move at most by `clip`; the entropy is worth `entropy` a nat, and half the squared
    error of values counts `value`. What an episode would bring that is cut off at its limit counts by its value. The
    model gives policies (B, P) and values (B,), as `ActorCritic` does, and carries nothing.

    It is judged by `play`. Metrics of a step: return and length of the episodes that ended in it (means of none are
    null), policy_loss, value_loss, entropy, `clipped`, the share of ratios that were, loss, grad_norm and param_norm.
    """
    if horizon < 1 or epochs < 1 or minibatches < 1:
        raise Error(
            f"horizon, epochs and minibatches are at least 1; given were {horizon=}, {epochs=}, {minibatches=}."
        )
    if not 0 <= discount <= 1 or not 0 <= trace <= 1 or clip <= 0:
        raise Error(
            f"discount and trace are from 0 to 1, clip above 0; given were {discount=}, {trace=}, {clip=}."
        )
    objective = play(environment, model)

    def init(key: Key, batch: Batch) -> State:
        rows = len(batch["id"])
        if rows * horizon % minibatches:
            raise Error(
                f"{horizon} steps of {rows} episodes are {rows * horizon} in all, and no multiple of the {minibatches} "
                "minibatches."
            )
        params = trained_alone(objective.init(stream(key, "init"), batch))
        episodes = begin(environment, jax.random.split(stream(key, "reset"), rows))
        return State(
            jnp.zeros((), jnp.int32), params, {}, Playing(optimizer.init(params), episodes), key
        )

    def values(params: Any, x: Array) -> tuple[Array, Array]:
        """Policies (..., P) and values (...) of observations (T, B, ...)."""
        policy, found = says(model, {"params": params}, x.reshape(-1, *x.shape[2:]))
        if found is None:
            raise Error("PPO needs a model that gives policies and values, such as ActorCritic.")
        return policy.reshape(*x.shape[:2], -1), found.reshape(x.shape[:2])

    def examples(params: Any, steps: Steps) -> Batch:
        """What the updates read of the steps (T, B), as rows (T * B, ...)."""
        policy, now = values(params, steps.x)
        _, after = values(params, steps.moved.after)
        advantages = gae(steps, now, after, discount, trace)
        columns = {
            "x": steps.x,
            "action": steps.action,
            "log_prob": environment.actions.log_prob(policy, steps.action),
            "value": now,
            "advantage": advantages,
            "target": advantages + now,
        }
        return {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()}

    def loss(params: Any, rows: Batch) -> tuple[Array, dict[str, Array]]:
        policy, now = (column[0] for column in values(params, rows["x"][None]))
        ratio = jnp.exp(environment.actions.log_prob(policy, rows["action"]) - rows["log_prob"])
        gain = rows["advantage"]
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        policy_loss = -jnp.minimum(gain * ratio, gain * ratio.clip(1 - clip, 1 + clip)).mean()
        near = rows["value"] + (now - rows["value"]).clip(-clip, clip)
        errors = jnp.maximum(jnp.square(now - rows["target"]), jnp.square(near - rows["target"]))
        value_loss, nats = 0.5 * errors.mean(), environment.actions.entropy(policy).mean()
        clipped = (jnp.abs(ratio - 1) > clip).astype(jnp.float32).mean()
        total = policy_loss + value * value_loss - entropy * nats
        return total, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": nats,
            "clipped": clipped,
        }

    def update(so_far: tuple[Any, Any], rows: Batch) -> tuple[tuple[Any, Any], dict[str, Array]]:
        params, opt_state = so_far
        (total, found), grads = jax.value_and_grad(loss, has_aux=True)(params, rows)
        params, opt_state = moved_by(optimizer, grads, opt_state, params)
        return (params, opt_state), {**found, "loss": total, "grad_norm": optax.tree.norm(grads)}

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = stream(state.key, "ppo", state.step)

        def choose(x: Array, keys: Key) -> Array:
            policy, _ = says(model, {"params": state.params}, x)
            return jax.vmap(environment.actions.drawn)(policy, keys)

        episodes = state.opt_state.episodes
        keys = jax.random.split(stream(key, "steps"), len(episodes.length))
        episodes, steps = rollout(environment, choose, episodes, keys, horizon)
        columns = examples(state.params, steps)
        orders = jax.vmap(jax.random.permutation, (0, None))(
            jax.random.split(stream(key, "orders"), epochs), steps.moved.over.size
        )

        def next_update(
            so_far: tuple[Any, Any], order: Array
        ) -> tuple[tuple[Any, Any], dict[str, Array]]:
            return update(so_far, {name: column[order] for name, column in columns.items()})

        start = (state.params, state.opt_state.opt_state)
        (params, opt_state), found = jax.lax.scan(
            next_update, start, orders.reshape(epochs * minibatches, -1)
        )
        metrics: Metrics = {name: Mean.of(numbers) for name, numbers in found.items()}
        metrics |= ended(steps) | {"param_norm": Mean.of(optax.tree.norm(params))}
        return State(state.step + 1, params, {}, Playing(opt_state, episodes), state.key), metrics

    return Learner(init, step, objective, view)


def view(state: State) -> Variables:
    """What is looked at of a learner that carries nothing."""
    return {"params": state.params}


def trained_alone(variables: Variables) -> Any:
    """The parameters; `Error` where the model has variables besides."""
    if more := sorted(variables.keys() - {"params"}):
        raise Error(
            f"The model carries {', '.join(more)}, for which this learner has no place: take one without."
        )
    return variables["params"]


def moved_by(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any]:
    """The parameters and the optimizer's state after an update."""
    with jax.numpy_dtype_promotion(
        "standard"
    ):  # Optax raises floats to whole powers, which "strict" forbids
        updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def ended(steps: Steps) -> Metrics:
    """Return and length of the episodes that ended within these steps."""
    moved = steps.moved
    return {
        "return": Mean.of(moved.total, moved.over),
        "length": Mean.of(moved.length.astype(jnp.float32), moved.over),
    }


def gae(steps: Steps, now: Array, after: Array, discount: float, trace: float) -> Array:
    """Generalised advantages (T, B) (Schulman et al., 2016), by the values of what is seen `now` and `after` a step."""
    moved = steps.moved
    after = jnp.where(moved.terminated, 0, after)
    surprise = moved.reward + discount * after - now

    def back(later: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        surprise, over = at
        advantage = surprise + discount * trace * jnp.where(over, 0, later)
        return advantage, advantage

    _, advantages = jax.lax.scan(back, jnp.zeros_like(now[0]), (surprise, moved.over), reverse=True)
    return advantages
