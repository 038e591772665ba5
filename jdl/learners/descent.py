"""Gradient descent: the one gradient step of the project."""

from __future__ import annotations

from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.types import Array, Batch, Error, Key, Learner, Mean, Metrics, Objective, Out, State, Variables


def descent(objective: Objective, optimizer: optax.GradientTransformation, micro_batches: int = 1) -> Learner:
    """Makes the objective's loss small by the optimizer's updates.

    The total of the loss is differentiated, summed over `micro_batches` equal parts of the batch (to save memory),
    and divided once by the summed count: ragged batches give the gradient of their real rows, however they are cut.
    Metrics: the objective's, `loss`, and the Euclidean norms `grad_norm`, `update_norm` and `param_norm`.
    """
    if micro_batches < 1:
        raise Error(f"micro_batches is how many parts a batch is cut into, at least 1, and {micro_batches} is not.")

    def init(key: Key, batch: Batch) -> State:
        variables = objective.init(stream(key, "init"), batch)
        params = variables["params"]
        carry = {name: v for name, v in variables.items() if name != "params"}
        return State(jnp.zeros((), jnp.int32), params, carry, optimizer.init(params), key)

    def total(params: Any, carry: Variables, batch: Batch, key: Key) -> tuple[Array, Out]:
        out = objective.loss({"params": params, **carry}, batch, key, True)
        return out.loss.total, out

    def gradient(state: State, batch: Batch, key: Key) -> tuple[Any, Out]:
        """The gradient of the loss's total and what else there is to say, over all parts in turn."""
        one = jax.grad(total, has_aux=True)
        if micro_batches == 1:
            return one(state.params, state.carry, batch, key)
        parts = _cut(batch, micro_batches)

        def following(so_far: tuple[Any, Out], m: Array) -> tuple[tuple[Any, Out], None]:
            grads, out = so_far
            part = {name: column[m] for name, column in parts.items()}
            more, new = one(state.params, out.carry, part, jax.random.fold_in(key, m))
            real = new.loss.count > 0  # a part that is all padding must not move the carried statistics
            carry = jax.tree.map(lambda new, old: jnp.where(real, new, old), new.carry, out.carry)
            metrics = jax.tree.map(add, out.metrics, new.metrics, is_leaf=lambda x: hasattr(x, "value"))
            return (jax.tree.map(jnp.add, grads, more), Out(out.loss + new.loss, metrics, carry)), None

        first = {name: column[0] for name, column in parts.items()}
        start = one(state.params, state.carry, first, jax.random.fold_in(key, 0))
        # Loops around convolutions are slow on a CPU, where memory is seldom short: there the parts are unrolled.
        unroll = jax.default_backend() == "cpu"
        return jax.lax.scan(following, start, jnp.arange(1, micro_batches), unroll=unroll)[0]

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        grads, out = gradient(state, batch, stream(state.key, "loss", state.step))
        count = jnp.where(out.loss.count == 0, 1, out.loss.count)
        grads = jax.tree.map(lambda g: (g / count).astype(g.dtype), grads)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to whole powers, which "strict" forbids
            updates, opt = optimizer.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = {"grad_norm": grads, "update_norm": updates, "param_norm": params}
        metrics = {"loss": out.loss, **out.metrics}
        metrics |= {name: Mean(optax.tree.norm(tree), jnp.ones(())) for name, tree in norms.items()}
        return State(state.step + 1, params, out.carry, opt, state.key), metrics

    def view(state: State) -> Variables:
        return {"params": state.params, **state.carry}

    return Learner(init, step, objective, view)


def _cut(batch: Batch, parts: int) -> Batch:
    """Columns (B, ...) to (parts, B / parts, ...): part m has the rows m, m + parts, ..., so that padding spreads."""
    rows = len(next(iter(batch.values())))
    if rows % parts:
        raise Error(f"A batch of {rows} rows cannot be cut into {parts} equal micro-batches: take a divisor of {rows}.")
    return {
        name: column.reshape(rows // parts, parts, *column.shape[1:]).swapaxes(0, 1) for name, column in batch.items()
    }
