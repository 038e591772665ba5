"""Mixed precision training, with dynamic loss scaling for float16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.learners.skip_nonfinite import select_state
from jdl.learners.wrapper import Wrapper, add_extra, set_extra
from jdl.patterns import balance_biases
from jdl.types import (
    Array,
    Batch,
    Error,
    Gradients,
    Key,
    Learner,
    Mean,
    Metrics,
    Precision,
    State,
    Variables,
)

INITIAL_SCALE = 2.0**15
GROWTH_INTERVAL = 2_000  # steps without an overflow after which the scale is doubled


def mixed_precision(learner: Learner, precision: Precision) -> Learner:
    """Mixed precision (Micikevicius et al., 2018): the model computes in half precision.

    It does so in training and in evaluation. Parameters, optimizer state, BatchNorm statistics,
    losses and sums of gradients stay in float32, and so do the biases of
    `jdl.optim.balance_experts`, whose gradients are loads. float16 adds dynamic loss scaling.
    Raises `Error` for a learner without `grads`.
    """
    if precision == "float32":
        return learner
    if not learner.has_grads:
        raise Error(
            f"--precision {precision} needs a learner whose loss is a sum over the batch, like "
            "jdl.descent: train this one with --precision float32."
        )
    half = MixedPrecision(learner, precision)
    return LossScaling(half) if precision == "float16" else half


@dataclass(frozen=True, eq=False)
class MixedPrecision(Wrapper):
    """Parameters are cast to half precision before every use; see `mixed_precision`."""

    precision: Precision

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The gradients, computed in half precision."""
        return self.learner.grads(
            replace(state, params=self._cast(state.params)), batch, key, loss_scale
        )

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's variables, with parameters in half precision."""
        variables = self.learner.eval_variables(state)
        return {**variables, "params": self._cast(variables["params"])}

    def _cast(self, params: Any) -> Any:
        dtype = jnp.dtype(self.precision)

        def cast(leaf: Array, balances: bool) -> Array:
            return leaf.astype(dtype) if leaf.dtype == jnp.float32 and not balances else leaf

        return jax.tree.map(cast, params, balance_biases(params))


@dataclass(frozen=True, eq=False)
class LossScaling(Wrapper):
    """Dynamic loss scaling, so that small gradients do not underflow in float16.

    A step whose gradients overflow is skipped, and halves the scale; 2,000 steps without an
    overflow double it (Micikevicius et al., 2018). The metric `loss_scale` is the scale of the
    step.
    """

    def init(self, key: Key, batch: Batch) -> State:
        """The scale starts at 2^15."""
        scale = {
            "scale": jnp.asarray(INITIAL_SCALE, jnp.float32),
            "good_steps": jnp.zeros((), jnp.int32),
        }
        return add_extra(self.learner.init(key, batch), "loss_scale", scale)

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The gradients of the scaled loss, divided by the scale."""
        scale = state.extra["loss_scale"]["scale"]
        gradients = self.learner.grads(state, batch, key, loss_scale * scale)
        return replace(gradients, grads=jax.tree.map(lambda g: g / scale, gradients.grads))

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """Skips the update if a gradient is not finite, and adapts the scale."""
        leaves = jax.tree.leaves(gradients.grads)
        finite = jnp.stack([jnp.isfinite(g).all() for g in leaves]).all()
        grads = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), gradients.grads)
        new, metrics = self.learner.apply_gradients(state, replace(gradients, grads=grads))
        scale, good_steps = (state.extra["loss_scale"][name] for name in ("scale", "good_steps"))
        good_steps = jnp.where(finite, good_steps + 1, 0)
        grown = good_steps >= GROWTH_INTERVAL
        factor = jnp.where(finite, jnp.where(grown, 2.0, 1.0), 0.5)
        adapted = {
            "scale": jnp.maximum(scale * factor, jnp.finfo(scale.dtype).tiny),
            "good_steps": jnp.where(grown, 0, good_steps),
        }
        new = set_extra(select_state(finite, new, state), "loss_scale", adapted)
        return new, {**metrics, "loss_scale": Mean(scale, jnp.ones(()))}
