"""Gradient descent: the one gradient step of the project."""

from __future__ import annotations

from dataclasses import replace
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.layers import psum_batch
from jdl.types import (
    Array,
    Batch,
    Error,
    Halves,
    Key,
    Learner,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    State,
    Sums,
    Variables,
)


def descent(
    objective: Objective, optimizer: optax.GradientTransformation, micro_batches: int = 1
) -> Learner:
    """Makes the objective's loss small by the optimizer's updates.

    The total of the loss is differentiated, summed over `micro_batches` equal parts of the batch (to save memory),
    and divided once by the summed count: ragged batches give the gradient of their real rows, however they are cut.
    Metrics: the objective's, `loss`, and the Euclidean norms `grad_norm`, `update_norm` and `param_norm`.
    """
    if micro_batches < 1:
        raise Error(
            f"micro_batches is how many parts a batch is cut into, at least 1, and {micro_batches} is not."
        )

    def init(key: Key, batch: Batch) -> State:
        variables = objective.init(stream(key, "init"), batch)
        params = variables["params"]
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return State(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), key)

    def sums(state: State, batch: Batch, key: Key, scale: Array | float = 1.0) -> Sums:
        def total(params: Any) -> tuple[Array, LossOutput]:
            out = objective.loss({"params": params, **state.model_state}, batch, key, True)
            return out.loss.total * scale, out

        grads, out = jax.grad(total, has_aux=True)(state.params)
        return Sums(jax.tree.map(wide, grads), out)

    def in_parts(state: State, batch: Batch, key: Key, scale: Array | float = 1.0) -> Sums:
        """The sums over all parts in turn."""
        parts = cut(batch, micro_batches)

        def following(so_far: Sums, m: Array) -> tuple[Sums, None]:
            part = {name: column[m] for name, column in parts.items()}
            more = sums(
                replace(state, model_state=so_far.out.model_state),
                part,
                jax.random.fold_in(key, m),
                scale,
            )
            real = (
                psum_batch(more.out.loss.count) > 0
            )  # a part that is all padding must not move the carried statistics
            model_state = jax.tree.map(
                lambda new, old: jnp.where(real, new, old),
                more.out.model_state,
                so_far.out.model_state,
            )
            return added(so_far, more, model_state), None

        first = {name: column[0] for name, column in parts.items()}
        start = sums(state, first, jax.random.fold_in(key, 0), scale)
        # On a CPU, where memory is seldom short, parts are unrolled: Flax's own convolutions are slow in loops there.
        unroll = jax.default_backend() == "cpu"
        return jax.lax.scan(following, start, jnp.arange(1, micro_batches), unroll=unroll)[0]

    def update(state: State, sums: Sums) -> tuple[State, Metrics]:
        out = sums.out
        count = jnp.where(out.loss.count == 0, 1, out.loss.count)
        grads = jax.tree.map(lambda g: (g / count).astype(g.dtype), sums.grads)
        with jax.numpy_dtype_promotion(
            "standard"
        ):  # Optax raises floats to whole powers, which "strict" forbids
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = {"grad_norm": grads, "update_norm": updates, "param_norm": params}
        metrics = {"loss": out.loss, **out.metrics}
        metrics |= {name: Mean(optax.tree.norm(tree), jnp.ones(())) for name, tree in norms.items()}
        return State(state.step + 1, params, out.model_state, opt_state, state.key), metrics

    gather = sums if micro_batches == 1 else in_parts

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        return update(state, gather(state, batch, stream(state.key, "loss", state.step)))

    def view(state: State) -> Variables:
        return {"params": state.params, **state.model_state}

    return Learner(init, step, objective, view, Halves(gather, update))


def wide(x: Array) -> Array:
    """Half precision as float32, in which sums are taken; any other type as it is."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def added(a: Sums, b: Sums, model_state: Variables) -> Sums:
    """The sums of two parts of a batch together; what they carry does not add, and is given."""
    metrics = jax.tree.map(add, a.out.metrics, b.out.metrics, is_leaf=lambda x: hasattr(x, "value"))
    return Sums(
        jax.tree.map(jnp.add, a.grads, b.grads),
        LossOutput(a.out.loss + b.out.loss, metrics, model_state),
    )


def cut(batch: Batch, parts: int) -> Batch:
    """Columns (B, ...) to (parts, B / parts, ...): part m has the rows m, m + parts, ..., so that padding spreads.

    Raises `Error` where the rows cannot be cut so.
    """
    rows = len(next(iter(batch.values())))
    if rows % parts:
        raise Error(
            f"A batch of {rows} rows cannot be cut into {parts} equal micro-batches: take a divisor of {rows}."
        )
    return {
        name: column.reshape(rows // parts, parts, *column.shape[1:]).swapaxes(0, 1)
        for name, column in batch.items()
    }
