"""Mixed precision: a step that computes in half precision, on parameters that are kept and updated in single."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.learners.skip_nonfinite import chosen
from jdl.types import (
    Array,
    Batch,
    Error,
    Halves,
    Key,
    Learner,
    Mean,
    Metrics,
    State,
    Sums,
    Variables,
)

Precision = Literal["float32", "bfloat16", "float16"]
START, PATIENCE = (
    2.0**15,
    2_000,
)  # the first scale, and the steps without overflow after which it is doubled


def mixed_precision(learner: Learner, precision: Precision) -> Learner:
    """The same learner, whose models compute in this precision, in training and when they are looked at.

    Parameters, optimizer state, BatchNorm statistics, losses, and sums of gradients stay in float32. With float16 the
    loss is scaled, so that small gradients are not lost: by half as much after a step whose gradients overflow, which
    is left out, and by twice as much after 2,000 steps without (Micikevicius et al., 2018). Raises `Error` for a
    learner whose step does not sum over its batch.
    """
    if precision == "float32":
        return learner
    if learner.halves is None:
        raise Error(
            f"--precision {precision} needs a learner whose step sums over its batch, like jdl.descent."
        )
    halves, dtype = learner.halves, jnp.dtype(precision)

    def narrow(params: Any) -> Any:
        return jax.tree.map(
            lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf, params
        )

    def sums(state: State, batch: Batch, key: Key, scale: Array | float = 1.0) -> Sums:
        return halves.sums(replace(state, params=narrow(state.params)), batch, key, scale)

    def view(state: State) -> Variables:
        variables = learner.view(state)
        return {**variables, "params": narrow(variables["params"])}

    narrowed = with_halves(learner, Halves(sums, halves.update), view)
    return _scaled(narrowed) if precision == "float16" else narrowed


def with_halves(learner: Learner, halves: Halves, view: Any) -> Learner:
    """The learner with other halves, of which its step is made, and another view."""

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        return halves.update(
            state, halves.sums(state, batch, stream(state.key, "loss", state.step))
        )

    return replace(learner, step=step, view=view, halves=halves)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled:
    """The inner learner's optimizer state, the scale of the loss, and the steps since it was changed."""

    opt_state: Any
    scale: Array
    since: Array


def _scaled(learner: Learner) -> Learner:
    assert learner.halves is not None
    halves = learner.halves

    def inner(state: State) -> State:
        return replace(state, opt_state=state.opt_state.opt_state)

    def init(key: Key, batch: Batch) -> State:
        state = learner.init(key, batch)
        return replace(
            state,
            opt_state=Scaled(
                state.opt_state, jnp.asarray(START, jnp.float32), jnp.zeros((), jnp.int32)
            ),
        )

    def sums(state: State, batch: Batch, key: Key, scale: Array | float = 1.0) -> Sums:
        found = halves.sums(inner(state), batch, key, scale * state.opt_state.scale)
        return replace(found, grads=jax.tree.map(lambda g: g / state.opt_state.scale, found.grads))

    def update(state: State, sums: Sums) -> tuple[State, Metrics]:
        old = inner(state)
        finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(sums.grads)]).all()
        grads = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), sums.grads)
        new, metrics = halves.update(old, replace(sums, grads=grads))
        new = chosen(finite, new, old)
        since = jnp.where(finite, state.opt_state.since + 1, 0)
        grown = since >= PATIENCE
        scale = state.opt_state.scale * jnp.where(finite, jnp.where(grown, 2.0, 1.0), 0.5)
        metrics = {**metrics, "loss_scale": Mean(state.opt_state.scale, jnp.ones(()))}
        return replace(
            new, opt_state=Scaled(new.opt_state, scale, jnp.where(grown, 0, since))
        ), metrics

    def view(state: State) -> Variables:
        return learner.view(inner(state))

    return replace(with_halves(learner, Halves(sums, update), view), init=init)
