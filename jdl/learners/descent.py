"""Gradient descent by an Optax optimizer, with gradient accumulation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.layers import gather_params, psum_batch
from jdl.layers.platform import target_platform
from jdl.learners.check_loss import check_kept, check_output, described
from jdl.optim import BALANCE
from jdl.patterns import balance_biases
from jdl.types import (
    ANNEALING,
    FP8_SCALES,
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

    With `micro_batches` above 1 it does gradient accumulation: a batch is cut into that many equal
    parts, whose gradients are computed one after the other and added, to save memory. The gradient
    of the summed loss is divided once by the total count, so padding has no effect on it, however
    the batch is cut. Metrics: the objective's, `loss`, and the Euclidean norms `grad_norm`,
    `update_norm` and `param_norm`; `grad_norm` is without the errors of experts' loads
    (`jdl.optim.balance_experts`), which are no gradients of the loss. Gradient clipping, weight
    decay and learning rate schedules belong to the optimizer (`jdl.optim`).
    """
    if micro_batches < 1:
        raise Error(
            "micro_batches, the number of parts that a batch is cut into, must be at least 1, got "
            f"{micro_batches}."
        )
    if not (hasattr(objective, "init") and hasattr(objective, "loss")):
        raise Error(
            "jdl.descent takes an objective, a model with its task and loss, such as "
            f"jdl.objectives.classify(model): not {described(objective)}."
        )
    if isinstance(objective, type):
        raise Error(
            f"jdl.descent takes an objective, and {objective.__name__} is the class of one: write "
            f"{objective.__name__}(model), with a model and what else it needs."
        )
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise Error(
            "jdl.descent takes an Optax optimizer with its learning rate, such as "
            f"optax.adam(1e-3): not {described(optimizer)}."
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
        opt_state = self.optimizer.init(params)
        _check_lookahead(opt_state)
        _check_balance(params, opt_state)
        return new_state(params, model_state, opt_state, key)

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The gradients, accumulated over the micro-batches."""
        if self.micro_batches == 1:
            return self._grads_of_part(state, batch, key, loss_scale)
        parts = split_batch(batch, self.micro_batches)

        def accumulate(total: Gradients, m: Array) -> tuple[Gradients, None]:
            part = {name: column[m] for name, column in parts.items()}
            before = replace(state, model_state=total.output.model_state)
            new = self._grads_of_part(before, part, jax.random.fold_in(key, m), loss_scale)
            # A part of padding alone must not change BatchNorm's running statistics.
            any_real = psum_batch(new.output.loss.count) > 0
            model_state = jax.tree.map(
                lambda new, old: jnp.where(any_real, new, old),
                new.output.model_state,
                total.output.model_state,
            )
            return add_gradients(total, new, model_state), None

        first = {name: column[0] for name, column in parts.items()}
        start = self._grads_of_part(state, first, jax.random.fold_in(key, 0), loss_scale)
        # On CPUs the loop is unrolled: `flax.linen.Conv` is slow within loops there, and memory is
        # seldom short.
        unroll = target_platform() == "cpu"
        return jax.lax.scan(accumulate, start, jnp.arange(1, self.micro_batches), unroll=unroll)[0]

    def _grads_of_part(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float
    ) -> Gradients:
        model_state = dict(state.model_state)
        if ANNEALING in model_state:
            model_state[ANNEALING] = {"step": state.step}

        scales = {FP8_SCALES: model_state.pop(FP8_SCALES)} if FP8_SCALES in model_state else {}

        def total_loss(trained: tuple[Any, Any]) -> tuple[Array, LossOutput]:
            params, scales = trained
            variables = {"params": gather_params(params), **model_state, **scales}
            output = self.objective.loss(variables, batch, key, True)
            check_output(self.objective, output)
            check_kept(self.objective, {**model_state, **scales}, output.model_state)
            return output.loss.total * loss_scale, output

        (grads, new_scales), output = jax.grad(total_loss, has_aux=True)((state.params, scales))
        if scales:
            output = replace(output, model_state={**output.model_state, **new_scales})
        return Gradients(jax.tree.map(to_float32, grads), output)

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """The optimizer's update by the gradients divided by the count, and the metrics."""
        output = gradients.output
        count = jnp.where(output.loss.count == 0, 1, output.loss.count)
        grads = jax.tree.map(lambda g: (g / count).astype(g.dtype), gradients.grads)
        params, opt_state, updates = update_params(
            self.optimizer,
            grads,
            state.opt_state,
            state.params,
            value=output.loss.total / count,
            grad=grads,
        )
        biases = jax.tree.leaves(balance_biases(grads))
        of_loss = [g for g, bias in zip(jax.tree.leaves(grads), biases, strict=True) if not bias]
        norms = {"grad_norm": of_loss, "update_norm": updates, "param_norm": params}
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
    optimizer: optax.GradientTransformation,
    grads: Any,
    opt_state: Any,
    params: Any,
    **given: Any,
) -> tuple[Any, Any, Any]:
    """The optimizer's update: new parameters, new optimizer state, and what was added.

    `given` is what some of Optax's optimizers require besides: `value`, the loss, and `grad`.
    """
    # Optax raises floats to whole powers, which "strict" dtype promotion forbids.
    with jax.named_scope("optimizer"), jax.numpy_dtype_promotion("standard"):
        updates, new = _update(optimizer, (grads, opt_state, params), given)
        return optax.apply_updates(params, updates), _of_types(new, opt_state), updates


def _update(optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """What `optimizer.update` gives, called with those of `given` that it requires and no others.

    Optax says nowhere what an optimizer requires or takes (in a chain, each of its parts), and some
    refuse what they do not know.
    """
    needed: dict[str, Any] = {}
    while True:
        try:
            return optimizer.update(*args, **needed)
        except TypeError as error:
            required = "required keyword-only argument" in str(error)
            names = set(re.findall(r"'(\w+)'", str(error))) - set(needed) if required else set()
            if not names:
                raise
            if lacking := sorted(names - set(given)):
                raise Error(
                    f"The optimizer needs {' and '.join(lacking)} in each update, which this "
                    "learner does not give: a step computes the loss and the gradient of a batch "
                    "once, so line searches (optax.lbfgs) and others that evaluate the loss again "
                    "cannot be used."
                ) from error
            needed |= {name: given[name] for name in names}


def to_float32(x: Array) -> Array:
    """Casts half precision to float32, in which gradients are summed; keeps other types."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def add_gradients(a: Gradients, b: Gradients, model_state: Variables) -> Gradients:
    """The summed gradients of two parts of a batch, with `model_state`, which has no sum."""
    metrics = jax.tree.map(
        add, a.output.metrics, b.output.metrics, is_leaf=lambda x: hasattr(x, "value")
    )
    output = LossOutput(a.output.loss + b.output.loss, metrics, model_state)
    return Gradients(jax.tree.map(jnp.add, a.grads, b.grads), output)


def split_batch(batch: Batch, parts: int) -> Batch:
    """Columns (B, ...) as (parts, B / parts, ...): part m has the rows m, m + parts, ...

    Padding rows come last in a batch, so this spreads them over the parts. Raises `Error` if the
    rows cannot be cut evenly.
    """
    rows = len(next(iter(batch.values())))
    if rows % parts:
        raise Error(
            f"A batch of {rows} rows cannot be cut into {parts} equal micro-batches: choose "
            f"a divisor of {rows}."
        )
    return {
        name: column.reshape(rows // parts, parts, *column.shape[1:]).swapaxes(0, 1)
        for name, column in batch.items()
    }


def _of_types(tree: Any, like: Any) -> Any:
    """The optimizer's state in the types in which it began.

    Gradients are float32, and moments of parameters in bfloat16 begin in bfloat16: a state whose
    types changed in the first step would be restored in others than it was saved in.
    """
    new, old = jax.tree.leaves_with_path(tree), jax.tree.leaves_with_path(like)
    if [path for path, _ in new] != [path for path, _ in old]:
        return tree  # which is refused, in words, by `check_step`
    return jax.tree.map(
        lambda x, old: x if x.dtype == old.dtype else x.astype(old.dtype), tree, like
    )


def _check_lookahead(opt_state: Any) -> None:
    """Raises `Error` for `optax.lookahead`, also within a chain."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, optax.LookaheadState))
    if any(isinstance(node, optax.LookaheadState) for node in nodes):
        raise Error(
            "optax.lookahead wants its own kind of parameters, fast and slow, in place of the "
            "model's: take the optimizer within it alone, and jdl.ema(learner) or "
            "jdl.swa(learner, start) to average the weights."
        )


def _check_balance(params: Any, opt_state: Any) -> None:
    """Raises `Error` where biases of experts reach another than `jdl.optim.balance_experts`."""
    balances = (
        isinstance(opt_state, optax.transforms.PartitionState) and BALANCE in opt_state.inner_states
    )
    if any(jax.tree.leaves(balance_biases(params))) and not balances:
        raise Error(
            "balance_bias is moved by the loads of experts and not by a gradient of the loss: wrap "
            "the whole optimizer, jdl.optim.balance_experts(optimizer), clipping and all, or leave "
            "out balance_bias."
        )
