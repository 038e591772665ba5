"""Where a number went bad: the step that did it is run once more, with an eye on every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdl.keys import stream
from jdl.types import Array, Batch, Learner, State


def nan_trace(learner: Learner, state: State, batch: Batch) -> str:
    """What goes bad first in the step that `learner` makes from this state with this batch, in a sentence.

    Looked at in this order: the batch, the outputs of the model's layers as they are computed, the gradients on their
    way back, and the state after the update.
    """
    for name, column in batch.items():
        rows = np.flatnonzero(~np.isfinite(np.asarray(column)).reshape(len(column), -1).all(1))
        if len(rows):
            ids = np.asarray(batch["id"])[rows] if "id" in batch else rows
            return f"Its batch is not finite: column {name}, of the examples {', '.join(map(str, ids[:5]))}"
    layers = _Layers()
    key = stream(state.key, "loss", state.step)
    try:
        with layers.watched():
            if learner.halves:
                sums = jax.jit(learner.halves.sums)(state, batch, key)
            else:
                jax.block_until_ready(jax.jit(learner.step)(state, batch))
            jax.effects_barrier()
    except ValueError as error:  # `flax.linen.scan` takes no side effects since Flax 0.12.12
        return f"Its layers cannot be looked into: {error}"
    if layers.forward:
        return f"The output of {layers.names[min(layers.forward)]} is the first that is not finite"
    if learner.halves and (wrong := first_bad(sums.grads)):
        told = f"The outputs of all layers are finite, and the gradient of {wrong}"
        return (
            f"{told}: on its way back it goes bad behind {layers.names[max(layers.back)]}"
            if layers.back
            else told
        )
    new, _ = jax.jit(learner.step)(state, batch)
    if wrong := first_bad(new.params):
        return f"Outputs and gradients are finite, and after the update {wrong}"
    return "Computed once more, by itself and on one device, the step is finite"


def first_bad(tree: Any) -> str | None:
    """The path of the first leaf that is not finite, or whose norm is not, and which of the two."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not bool(jnp.isfinite(leaf).all()):
            return f"{name} is not"
        if not bool(jnp.isfinite(optax.tree.norm(leaf))):
            return f"{name} is too large: its norm is not"
    return None


@dataclass
class _Layers:
    """The layers of a model in the order in which their outputs are computed, and those that were not finite."""

    names: list[str] = field(default_factory=list)
    forward: set[int] = field(default_factory=set)  # whose outputs are not finite
    back: set[int] = field(default_factory=set)  # the gradient of whose outputs is not finite

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Looks at every layer of what is traced and run meanwhile."""

        def look(
            call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
        ) -> Any:
            output = call(*args, **kwargs)
            module = context.module
            self.names.append(f"{'/'.join(module.path) or 'the model'} ({type(module).__name__})")
            return jax.tree.map(self._eye(len(self.names) - 1), output)

        with nn.intercept_methods(look):
            yield

    def _eye(self, number: int) -> Callable[[Any], Any]:
        def note(bad: set[int], x: Array) -> None:
            def told(finite: Any) -> None:
                if not finite:
                    bad.add(number)

            jax.debug.callback(told, jnp.isfinite(x).all())

        @jax.custom_vjp
        def through(x: Array) -> Array:
            return x

        def back(_: None, grad: Array) -> tuple[Array]:
            note(self.back, grad)
            return (grad,)

        through.defvjp(lambda x: (x, None), back)

        def look(x: Any) -> Any:
            if not (isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)):
                return x
            note(self.forward, x)
            return through(x)

        return look
