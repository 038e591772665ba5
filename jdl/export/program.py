"""Programs: pure functions of weights and named inputs, lowered to StableHLO by `jax.export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jdl.data.dataflow import dependences
from jdl.layers.platform import plain_implementations
from jdl.types import Array, Batch, Error, Variables

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH_AXIS, TIME_AXIS = "b", "t"  # the symbolic dimensions
Function = Callable[[Variables, Batch], Batch]
Specs = dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Program:
    """A function as StableHLO, for several platforms: `exported.call(weights, inputs)`.

    Weights, inputs and outputs are dicts of arrays by name, and are passed in the order of their
    names. The first axis of all inputs is the batch, of any size.
    """

    name: str
    exported: jax.export.Exported

    @property
    def weights(self) -> Specs:
        """The shapes and types of the weights that it reads."""
        return self._arguments[0]

    @property
    def inputs(self) -> Specs:
        """The shapes and types of the inputs; a dimension may be symbolic."""
        return self._arguments[1]

    @property
    def outputs(self) -> Specs:
        """The shapes and types of the outputs."""
        return jax.tree.unflatten(self.exported.out_tree, self.exported.out_avals)

    @property
    def _arguments(self) -> Any:
        arguments, _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return arguments


def weights_by_name(variables: Variables) -> dict[str, Any]:
    """The leaves of variables, any pytree, by their path, such as "params/Conv_0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {_name(path): leaf for path, leaf in leaves}


def needed(function: Function, variables: Variables, columns: Batch) -> tuple[set[str], set[str]]:
    """The names of the weights and of the columns that the outputs depend on, by tracing."""
    jaxpr = jax.make_jaxpr(function)(variables, columns).jaxpr
    read = frozenset[int]().union(*(output.inputs for output in dependences(jaxpr)))
    weights = list(weights_by_name(variables))
    names = [*weights, *sorted(columns)]  # a dict's entries come in the order of their names
    found = {names[n] for n in read if n < len(weights)}
    return found, {names[n] for n in read if n >= len(weights)}


def lower(
    name: str,
    function: Function,
    variables: Variables,
    columns: Batch,
    symbolic: Specs,
    platforms: Sequence[str] = PLATFORMS,
) -> Program:
    """Lowers `function(variables, columns)` to a program of what it needs.

    Its inputs are those of the `symbolic` shapes, which `symbolic_shapes` makes. Other columns,
    and weights that the outputs do not depend on, are zeros within. Raises `Error` where the
    function cannot be lowered for all sizes of a batch.
    """
    kept, _ = needed(function, variables, columns)
    weights = {path: leaf for path, leaf in weights_by_name(variables).items() if path in kept}

    def of_names(weights: dict[str, Array], inputs: Batch) -> Batch:
        rows = next(iter(inputs.values())).shape[0]
        zeros = {
            column: jnp.zeros((rows, *spec.shape[1:]), spec.dtype)
            for column, spec in columns.items()
            if column not in inputs
        }
        return function(_variables(variables, weights), {**zeros, **inputs})

    specs = {path: jax.ShapeDtypeStruct(w.shape, w.dtype) for path, w in weights.items()}
    with _portable():
        exported = jax.export.export(jax.jit(of_names), platforms=platforms)(specs, symbolic)
    return Program(name, exported)


def symbolic_shapes(specs: Mapping[str, Any], time: int | None = None) -> Specs:
    """The specs with a symbolic batch, their first axis.

    With `time`, the second axis is symbolic where it has that size, from 1 to `time`.
    """
    limits = [f"{TIME_AXIS}>=1", f"{TIME_AXIS}<={time}"] if time else []
    scope = jax.export.SymbolicScope([f"{BATCH_AXIS}>=1", *limits])
    found = {}
    for name, spec in specs.items():
        second = TIME_AXIS if time and spec.shape[1:2] == (time,) else "_"
        dims = ", ".join([BATCH_AXIS, *[second] * (spec.ndim > 1), *["_"] * (spec.ndim - 2)])
        shape = jax.export.symbolic_shape(dims, scope=scope, like=spec.shape)
        found[name] = jax.ShapeDtypeStruct(shape, spec.dtype)
    return found


def first_line(error: Exception) -> str:
    """The first line of an error's message, for an `Error`."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def _variables(like: Variables, weights: Mapping[str, Array]) -> Variables:
    """Variables of a structure, with these weights by name, and zeros where there are none."""

    def leaf(path: Any, spec: Any) -> Array:
        found = weights.get(_name(path))
        return jnp.zeros(spec.shape, spec.dtype) if found is None else found

    return jax.tree_util.tree_map_with_path(leaf, like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _portable() -> AbstractContextManager[None]:
    """On a GPU, half-precision attention would be cuDNN's for all platforms: it is plain then."""
    return plain_implementations() if jax.default_backend() == "gpu" else nullcontext()
