"""Returns of whole episodes: what a policy is judged by, and REINFORCE, which climbs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.environments import Environment, Episodes, begin, folded, move, rollout, seen
from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.objectives import model_call as call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)


def play(environment: Environment, model: Any) -> Objective:
    """An episode for each row of a batch (`jdl.data.episodes`), by the best action at each step: its return.

    The model reads observations (B, ...) and gives the policy (B, P), alone or before values (B,), that is logits or
    values of actions, or means and logs of deviations: see `jdl.environments`. The loss is the negative return; metrics
    are return and length. It predicts the actions for observations x.
    """

    def begun(key: Key, rows: int) -> Episodes:
        return begin(environment, sample_rows(_keys, key, (rows,)))

    def init(key: Key, batch: Batch) -> Variables:
        episodes = begun(stream(key, "reset"), _rows(batch))
        return call.init(model, key, seen(environment, episodes))

    def best(variables: Variables, x: Array) -> Array:
        return environment.actions.best(says(model, variables, x)[0])

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        rows = _rows(batch)
        keys = sample_rows(_keys, stream(key, "steps"), (rows,))

        def under_way(so_far: tuple[Array, Episodes, Array, Array]) -> Array:
            return so_far[2].any() & (so_far[0] < environment.limit)

        def step(
            so_far: tuple[Array, Episodes, Array, Array],
        ) -> tuple[Array, Episodes, Array, Array]:
            n, episodes, going, found = so_far
            actions = best(variables, seen(environment, episodes))
            episodes, moved = move(environment, episodes, actions, folded(keys, n))
            ended = jnp.stack([moved.total, moved.length.astype(jnp.float32)], 1)
            found = jnp.where((going & moved.over)[:, None], ended, found)
            return n + 1, episodes, going & ~moved.over, found

        episodes = begun(stream(key, "reset"), rows)
        start = (jnp.zeros((), jnp.int32), episodes, jnp.ones(rows, bool), jnp.zeros((rows, 2)))
        _, _, _, found = jax.lax.while_loop(under_way, step, start)
        total, length = (Mean.of(found[:, n], batch.get("mask")) for n in range(2))
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return LossOutput(
            Mean(-total.total, total.count), {"return": total, "length": length}, model_state
        )

    def predict(variables: Variables, batch: Batch) -> Batch:
        return {"action": environment.actions.done(best(variables, call.column(batch)))}

    def check(batch: Batch, bounds: Bounds) -> None:
        def said(key: Key, batch: Batch) -> tuple[Array, Array | None]:
            x = seen(environment, begun(key, _rows(batch)))
            return says(model, call.init(model, key, x), x)

        policy, _ = jax.eval_shape(said, jax.eval_shape(jax.random.key, 0), batch)
        if policy.shape != (_rows(batch), environment.actions.parameters):
            raise Error(
                f"The model gives a policy of {policy.shape} for {_rows(batch)} observations, and the actions "
                f"{environment.actions} take {environment.actions.parameters} numbers each."
            )

    return Objective(init, loss, predict, check)


def reinforce(
    environment: Environment,
    model: Any,
    discount: float = 0.99,
    value: float = 0.5,
    entropy: float = 0.0,
) -> Objective:
    """REINFORCE (Williams, 1992): an episode for each row, and what makes the actions of good steps more likely.

    The loss of an episode is the sum over its steps of -log p(action) times the discounted rewards from there on, less
    the model's value where it gives one; that learns the same rewards by half its squared error, times `value`. The
    entropy of the policy is worth `entropy` a nat and step. In training the metrics are return and length of episodes
    whose actions are drawn; in evaluation those of `play`.
    """
    if not 0 <= discount <= 1:
        raise Error(f"discount is from 0 to 1, and {discount} is not.")
    judged = play(environment, model)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        if not train:
            return judged.loss(variables, batch, key, train)
        rows = _rows(batch)
        episodes = begin(environment, sample_rows(_keys, stream(key, "reset"), (rows,)))
        fixed = jax.lax.stop_gradient(variables)

        def choose(x: Array, keys: Key) -> Array:
            return jax.vmap(environment.actions.sample_rows)(says(model, fixed, x)[0], keys)

        keys = sample_rows(_keys, stream(key, "steps"), (rows,))
        _, steps = rollout(environment, choose, episodes, keys, environment.limit)
        ended = steps.moved.over.astype(jnp.int32)
        going = jnp.cumsum(ended, 0) - ended == 0  # in the first episode of each row, (T, B)
        rewards = jnp.where(going, steps.moved.reward, 0)

        def back(later: Array, reward: Array) -> tuple[Array, Array]:
            now = reward + discount * later
            return now, now

        ahead = jax.lax.scan(back, jnp.zeros(rows), rewards, reverse=True)[1]  # (T, B)
        policy, values = says(model, variables, steps.x.reshape(-1, *steps.x.shape[2:]))
        policy = policy.reshape(*going.shape, -1)
        gain, learned = ahead, jnp.zeros(going.shape)
        if values is not None:
            values = values.reshape(going.shape)
            gain, learned = (
                ahead - jax.lax.stop_gradient(values),
                0.5 * value * optax.squared_error(values, ahead),
            )
        said = environment.actions.log_prob(
            policy, steps.action
        ) * gain + entropy * environment.actions.entropy(policy)
        losses = jnp.where(going, learned - said, 0).sum(0)
        mask = batch.get("mask")
        metrics: Metrics = {
            "return": Mean.of(rewards.sum(0), mask),
            "length": Mean.of(going.sum(0).astype(jnp.float32), mask),
        }
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return LossOutput(Mean.of(losses, mask), metrics, model_state)

    return replace(judged, loss=loss)


def says(model: Any, variables: Variables, x: Array) -> tuple[Array, Array | None]:
    """The policy (B, P) for observations x (B, ...), and the values (B,) of a model that gives them."""
    out, _ = call.apply(model, variables, (x,), {}, jax.random.key(0), False)
    return out if isinstance(out, tuple) else (out, None)


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _keys(key: Key, shape: tuple[int, ...]) -> Key:
    return jax.random.split(key, shape[0])
