"""Gradient descent, with gradient accumulation: the one gradient step of jdl."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    Gradients,
    Key,
    Learner,
    LossOutput,
    Mean,
    Metrics,
    Objective,
    State,
    Variables,
)


def descent(
    objective: Objective, optimizer: optax.GradientTransformation, micro_batches: int = 1
) -> Descent:
    """Gradient descent on an objective's loss by an Optax optimizer: the usual learner.

    With `micro_batches` above 1 it does gradient accumulation: a batch is cut into as many equal
    parts, whose gradients are computed in turn and added, to save memory. The gradient is that of
    the loss's total, divided once by the total count: a ragged batch has the gradient of its real
    rows, however it is cut. Metrics: the objective's, `loss`, and the Euclidean norms `grad_norm`,
    `update_norm` and `param_norm`. Gradient clipping, weight decay and learning rate schedules are
    links of the Optax chain (`jdl.optim`).
    """
    if micro_batches < 1:
        raise Error(
            "micro_batches is the number of parts a batch is cut into, at least 1: "
            f"{micro_batches} is not."
        )
    return Descent(objective, optimizer, micro_batches)


@dataclass(frozen=True, eq=False)
class Descent(Learner):
    """Gradient descent; see `descent`."""

    objective: Objective
    optimizer: optax.GradientTransformation
    micro_batches: int = 1

    def init(self, key: Key, batch: Batch) -> State:
        """Fresh parameters, model state and optimizer state."""
        variables = self.objective.init(stream(key, "init"), batch)
        params = variables["params"]
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return new_state(params, model_state, self.optimizer.init(params), key)

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The gradients, accumulated over the micro-batches."""
        if self.micro_batches == 1:
            return self._grads_of_part(state, batch, key, loss_scale)
        parts = split_batch(batch, self.micro_batches)

        def accumulate(so_far: Gradients, m: Array) -> tuple[Gradients, None]:
            part = {name: column[m] for name, column in parts.items()}
            before = replace(state, model_state=so_far.output.model_state)
            more = self._grads_of_part(before, part, jax.random.fold_in(key, m), loss_scale)
            # A part that is all padding must not move the running statistics.
            real = psum_batch(more.output.loss.count) > 0
            model_state = jax.tree.map(
                lambda new, old: jnp.where(real, new, old),
                more.output.model_state,
                so_far.output.model_state,
            )
            return add_gradients(so_far, more, model_state), None

        first = {name: column[0] for name, column in parts.items()}
        start = self._grads_of_part(state, first, jax.random.fold_in(key, 0), loss_scale)
        # On a CPU, where memory is seldom short, the loop is unrolled: Flax's own convolutions are
        # slow in loops there.
        unroll = jax.default_backend() == "cpu"
        return jax.lax.scan(accumulate, start, jnp.arange(1, self.micro_batches), unroll=unroll)[0]

    def _grads_of_part(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float
    ) -> Gradients:
        def total(params: Any) -> tuple[Array, LossOutput]:
            variables = {"params": params, **state.model_state}
            output = self.objective.loss(variables, batch, key, True)
            return output.loss.total * loss_scale, output

        grads, output = jax.grad(total, has_aux=True)(state.params)
        return Gradients(jax.tree.map(to_float32, grads), output)

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """Divides by the count, and makes the optimizer's update."""
        output = gradients.output
        count = jnp.where(output.loss.count == 0, 1, output.loss.count)
        grads = jax.tree.map(lambda g: (g / count).astype(g.dtype), gradients.grads)
        params, opt_state, updates = update_params(
            self.optimizer, grads, state.opt_state, state.params
        )
        norms = {"grad_norm": grads, "update_norm": updates, "param_norm": params}
        metrics = {"loss": output.loss, **output.metrics}
        metrics |= {name: Mean(optax.tree.norm(tree), jnp.ones(())) for name, tree in norms.items()}
        new = replace(
            state,
            step=state.step + 1,
            params=params,
            model_state=output.model_state,
            opt_state=opt_state,
        )
        return new, metrics


def new_state(params: Any, model_state: Variables, opt_state: Any, key: Key, **extra: Any) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), params, model_state, opt_state, key, extra)


def update_params(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any, Any]:
    """The optimizer's update: new parameters, new optimizer state, and the added updates."""
    # Optax raises floats to whole powers, which "strict" dtype promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, updates


def to_float32(x: Array) -> Array:
    """Half precision as float32, in which gradients are added up; any other type as it is."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def add_gradients(a: Gradients, b: Gradients, model_state: Variables) -> Gradients:
    """The gradients of two parts of a batch together, with this model state, which does not add."""
    metrics = jax.tree.map(
        add, a.output.metrics, b.output.metrics, is_leaf=lambda x: hasattr(x, "value")
    )
    output = LossOutput(a.output.loss + b.output.loss, metrics, model_state)
    return Gradients(jax.tree.map(jnp.add, a.grads, b.grads), output)


def split_batch(batch: Batch, parts: int) -> Batch:
    """Columns (B, ...) as (parts, B / parts, ...): part m has the rows m, m + parts, ...

    So padding, which stands last, spreads over the parts. Raises `Error` where the rows cannot be
    cut evenly.
    """
    rows = len(next(iter(batch.values())))
    if rows % parts:
        raise Error(
            f"A batch of {rows} rows cannot be cut into {parts} equal micro-batches: take a "
            f"divisor of {rows}."
        )
    return {
        name: column.reshape(rows // parts, parts, *column.shape[1:]).swapaxes(0, 1)
        for name, column in batch.items()
    }
