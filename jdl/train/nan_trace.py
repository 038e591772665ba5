"""The NaN trace: where in a training step the first NaN or infinite number appeared.

The step is computed again, with checks of the outputs and the gradients of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jdl.environments import Environment
from jdl.keys import stream
from jdl.layers.nnx_calls import intercept_calls
from jdl.learners.compilation import CompiledLearner
from jdl.learners.replay import REPLAY_BUFFER
from jdl.paths import path_name
from jdl.types import Array, Batch, Gradients, Learner, Metrics, State

OUT_OF_RANGE = ": it was asked for a row that it has not"
OF_INPUT = (
    ", and its input is not finite already: look at what is computed before this layer, such as a "
    "logarithm of 0 or a division by 0"
)
OF_BATCH = "Its batch is not finite"
OF_ENV = "mend the environment's step or observe"
OF_PADDING = (
    ", and only in rows that fill up the batch, whose `mask` is false: a mean over no step, "
    "perhaps. Divide by jnp.maximum(count, 1), where count is the number of steps in each row"
)
OF_DATA = (OUT_OF_RANGE, OF_BATCH, OF_ENV, OF_PADDING)  # in a trace: what no learning rate mends
FROM_ENV = {"reward": "The environment's reward", "obs": "The environment's observation"}


def nan_trace(learner: Learner, state: State, batch: Batch) -> str:
    """A sentence that says what in the learner's step, from this state on this batch, is NaN first.

    Checked in this order: the batch, the replay buffer, the outputs of the model's layers and an
    environment's observations and rewards as they are computed, the loss, the gradients in the
    backward pass, and the parameters after the update.
    """
    if wrong := _nonfinite_rows(batch):
        return f"{OF_BATCH}: {wrong}"
    for name, column in state.extra.get(REPLAY_BUFFER, {}).items():
        if not _is_finite(column):
            return f"The {name} in the replay buffer, of earlier steps, is not finite: {OF_ENV}"
    if isinstance(learner, CompiledLearner):
        learner = learner.learner
    trace = _LayerTrace()
    learner = _with_checks(learner, trace)
    try:
        with trace.recording():
            gradients, metrics = _recompute(learner, state, batch)
            jax.effects_barrier()
    except ValueError as error:  # `flax.linen.scan` takes no side effects since Flax 0.12.12
        return f"Its layers cannot be traced: {error}"
    if trace.outputs:
        number = min(trace.outputs)
        first = trace.layers[number]
        if first in FROM_ENV:
            return f"{FROM_ENV[first]} is the first that is not finite: {OF_ENV}"
        text = f"The output of {first} is the first that is not finite"
        if trace.of_padding(number, batch.get("mask")):
            return f"{text}{OF_PADDING}"
        if number in trace.inputs:
            text += OF_INPUT
        return f"{text}{trace.out_of_range.get(number, '')}"
    seen = "The outputs of all layers" if trace.layers else "The columns of the batch"
    if wrong := _nonfinite_loss(metrics):
        return f"{seen} are finite, and {wrong}"
    if gradients and (wrong := first_nonfinite(gradients.grads)):
        where = f"{seen} and the loss are finite, and the gradient of {wrong}"
        if trace.gradients:
            where += f"; in the backward pass first that of {trace.layers[max(trace.gradients)]}"
        return where
    new, _ = jax.jit(learner.step)(state, batch)
    if wrong := first_nonfinite(new.params):
        return f"Outputs and gradients are finite, and after the update {wrong}"
    return "Computed again, alone and on one device, the step is finite"


def first_nonfinite(tree: Any) -> str | None:
    """The path of the first leaf that is not finite or whose norm overflows, as a sentence part."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        if not bool(jnp.isfinite(leaf).all()):
            return f"{name} is not"
        if not bool(jnp.isfinite(optax.tree.norm(leaf))):
            return f"{name} is too large: its norm is not"
    return None


def _nonfinite_rows(batch: Batch) -> str | None:
    """The first column with numbers that are not finite, and the ids of their examples."""
    for name, column in batch.items():
        rows = np.flatnonzero(~np.isfinite(np.asarray(column)).reshape(len(column), -1).all(1))
        if len(rows):
            ids = np.asarray(batch["id"])[rows] if "id" in batch else rows
            return f"column {name}, of the examples {', '.join(map(str, ids[:5]))}"
    return None


def _recompute(learner: Learner, state: State, batch: Batch) -> tuple[Gradients | None, Metrics]:
    """The gradients (None where the learner has none), and the loss and metrics of its step.

    By new functions: jit has no trace of them yet that was made without the checks.
    """
    if learner.has_grads:
        key = stream(state.key, "loss", state.step)
        gradients = jax.jit(lambda *inputs: learner.grads(*inputs))(state, batch, key)
        return gradients, {"loss": gradients.output.loss, **gradients.output.metrics}
    step = jax.jit(lambda *inputs: learner.step(*inputs))
    return None, jax.block_until_ready(step(state, batch))[1]


def _with_checks(part: Any, trace: _LayerTrace) -> Any:
    """The learner, or a part of it, with checks of its environment, if it has one.

    Within wrappers and populations, and within the objective of a descent (REINFORCE).
    """
    names: set[str] = {*getattr(part, "__dataclass_fields__", ())}
    environment = getattr(part, "environment", None)
    if "environment" in names and isinstance(environment, Environment):
        return replace(part, environment=trace.checked(environment))
    for name in sorted(names & {"learner", "objective"}):
        inner = getattr(part, name)
        if (checked := _with_checks(inner, trace)) is not inner:
            return replace(part, **{name: checked})
    return part


def _nonfinite_loss(metrics: Metrics) -> str | None:
    """A clause that names the loss and the metrics, if the loss is not finite."""
    names = [name for name, metric in metrics.items() if not _is_finite(metric)]
    if "loss" not in names:
        return None
    others = ", ".join(name for name in names if name != "loss")
    more = f" (nor is {others})" if others else ""
    return (
        f"the loss is the first that is not{more}: a label outside of the model's classes, or a "
        "logarithm of 0, can cause this"
    )


def _is_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


@dataclass
class _LayerTrace:
    """The layers of a model in the order of their calls, and those that were not finite."""

    layers: list[str] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)  # numbers of layers whose outputs are not finite
    inputs: set[int] = field(default_factory=set)  # those whose first input is not
    gradients: set[int] = field(default_factory=set)  # those whose outputs' gradients are not
    rows: dict[int, list[Any]] = field(default_factory=dict)  # which rows of these are
    out_of_range: dict[int, str] = field(default_factory=dict)  # what an Embed was asked for

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within the block, records every layer that is traced and run."""
        with nn.intercept_methods(self._linen), intercept_calls(self._layer):
            yield

    def of_padding(self, number: int, mask: Array | None) -> bool:
        """Whether the output of a layer is finite in all rows that the mask (B,) has as real."""
        of_outputs = self.rows.get(number, [])
        if mask is None or not of_outputs:
            return False
        real = np.asarray(mask).astype(bool)
        return all(rows.shape == real.shape and rows[real].all() for rows in of_outputs)

    def checked(self, environment: Environment) -> Environment:
        """The environment with checks of what it gives, as those of layers."""

        def step(state: Any, action: Array, key: Array) -> tuple[Any, Array, Array]:
            state, reward, terminated = environment.step(state, action, key)
            return state, self._seen("reward", jnp.asarray(reward)), terminated

        def observe(state: Any) -> Array:
            return self._seen("obs", environment.observe(state))

        return replace(environment, step=step, observe=observe)

    def _seen(self, name: str, value: Any) -> Any:
        self.layers.append(name)
        return self._probe(len(self.layers) - 1, value)

    def _linen(
        self,
        call: Callable[..., Any],
        args: Any,
        kwargs: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        output, module = call(*args, **kwargs), context.module
        is_call = context.method_name == "__call__"
        inputs = (*args, *kwargs.values()) if is_call else ()
        return self._layer("/".join(module.path), module, inputs, output)

    def _layer(self, path: str, module: Any, inputs: Sequence[Any], output: Any) -> Any:
        """The output, with checks; `inputs` are a call's, by which an Embed looks rows up."""
        self.layers.append(f"{path or 'the model'} ({type(module).__name__})")
        number = len(self.layers) - 1
        for x in jax.tree.leaves(inputs[:1]):  # of an attention's bias, a later one, -inf is usual
            if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact):
                _check(self.inputs, number, x)
        if isinstance(module, nn.Embed | nnx.Embed) and inputs and inputs[0].size:
            asked = partial(self._asked, number, module.num_embeddings)
            jax.debug.callback(asked, inputs[0].min(), inputs[0].max())
        return jax.tree.map(partial(self._probe, number), output)

    def _asked(self, number: int, rows: int, low: Any, high: Any) -> None:
        """Notes that an embedding was asked for rows that it has not: they are NaN."""
        if low < -rows or high >= rows:
            asked = int(high if high >= rows else low)
            self.out_of_range[number] = (
                f"{OUT_OF_RANGE}, {asked}, of an embedding of {rows} rows, 0 to {rows - 1}: give it"
                " as many rows as there are values, or correct the column"
            )

    def _probe(self, number: int, x: Any) -> Any:
        """The identity, with checks of the values and, in the backward pass, of the gradients."""
        if not (isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)):
            return x
        _check(self.outputs, number, x, self.rows)

        @jax.custom_vjp
        def identity(x: Array) -> Array:
            return x

        def backward(_: None, grad: Array) -> tuple[Array]:
            _check(self.gradients, number, grad)
            return (grad,)

        identity.defvjp(lambda x: (x, None), backward)
        return identity(x)


def _check(
    nonfinite: set[int], number: int, x: Array, of_rows: dict[int, list[Any]] | None = None
) -> None:
    """Adds `number` to the set `nonfinite` if the array, once computed, is not finite.

    And to the list of `of_rows`, which of its rows are finite.
    """

    def add(finite: Any) -> None:
        if not finite.all():
            nonfinite.add(number)
            if of_rows is not None:
                of_rows.setdefault(number, []).append(np.asarray(finite))

    finite = jnp.isfinite(x)
    jax.debug.callback(add, finite.reshape(len(x), -1).all(1) if x.ndim and x.size else finite)
