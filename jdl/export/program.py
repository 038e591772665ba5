"""Programs: pure functions of weights and named inputs, lowered to StableHLO by `jax.export`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jdl.data.dataflow import dependences
from jdl.inspect.exceptions import with_line
from jdl.layers.platform import plain_implementations
from jdl.paths import by_path, path_name
from jdl.types import Array, Batch, Error, Variables

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH_AXIS, TIME_AXIS = "b", "t"  # the symbolic dimensions
Function = Callable[[Variables, Batch], Batch]
Specs = dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Program:
    """A function as StableHLO, for several platforms: `exported.call(weights, inputs)`.

    Weights, inputs and outputs are dicts of arrays by name, and are passed in the order of their
    names. The first axis of all inputs but numbers is the batch, b, of any size; a second axis t is
    time, of any size up to `max_time`.
    """

    name: str
    exported: jax.export.Exported
    function: Function  # the same in JAX, of weights by name
    max_time: int | None = None

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

    def fixed_time(self) -> Specs:
        """The inputs with the longest time: where a format has only the batch of any size."""
        return {
            name: jax.ShapeDtypeStruct(
                tuple(
                    self.max_time if axis == 1 and not isinstance(n, int) else n
                    for axis, n in enumerate(spec.shape)
                ),
                spec.dtype,
            )
            for name, spec in self.inputs.items()
        }

    @property
    def _arguments(self) -> Any:
        arguments, _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return arguments


def from_names(like: Any, leaves: Mapping[str, Array]) -> Any:
    """The pytree of a structure with these leaves by path, and zeros where there are none."""

    def leaf(path: Any, spec: Any) -> Array:
        found = leaves.get(path_name(path))
        return jnp.zeros(spec.shape, spec.dtype) if found is None else found

    return jax.tree_util.tree_map_with_path(leaf, like)


def needed(function: Function, variables: Variables, columns: Specs) -> tuple[set[str], set[str]]:
    """The names of the weights and of the columns that the outputs depend on, by tracing."""
    jaxpr = jax.make_jaxpr(function)(variables, columns).jaxpr
    read = frozenset[int]().union(*(output.inputs for output in dependences(jaxpr)))
    weights = list(by_path(variables))
    names = [*weights, *sorted(columns)]  # a dict's entries come in the order of their names
    found = {names[n] for n in read if n < len(weights)}
    return found, {names[n] for n in read if n >= len(weights)}


def lower(
    name: str,
    function: Function,
    variables: Variables,
    columns: Specs,
    inputs: Collection[str],
    time: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> Program:
    """Lowers `function(variables, columns)` to a program of what it needs.

    Its inputs are the columns that `inputs` names, of a symbolic shape by `symbolic_shapes`. Other
    columns, and weights that the outputs do not depend on, are zeros within. Raises `Error` where
    the function cannot be traced so.
    """
    kept, _ = needed(function, variables, columns)
    weights = {path: leaf for path, leaf in by_path(variables).items() if path in kept}

    def of_names(weights: dict[str, Array], inputs: Batch) -> Batch:
        rows = next(column.shape[0] for column in inputs.values() if column.ndim)
        zeros = {
            column: jnp.zeros((rows, *spec.shape[1:])[: spec.ndim], spec.dtype)
            for column, spec in columns.items()
            if column not in inputs
        }
        return function(from_names(variables, weights), {**zeros, **inputs})

    specs = {path: jax.ShapeDtypeStruct(w.shape, w.dtype) for path, w in weights.items()}
    symbolic = symbolic_shapes({column: columns[column] for column in sorted(inputs)}, time)
    try:
        with _portable():
            exported = jax.export.export(jax.jit(of_names), platforms=platforms)(specs, symbolic)
    except Exception as error:  # a layer's arithmetic on symbolic shapes raises any exception
        raise Error(
            f"The program {name} is for a batch of any size, whose x.shape[0] is a symbol: "
            f"{with_line(error)}. Write x.shape[0] for len(x), and jax.numpy for NumPy. Of a run "
            "that is trained, export your changed script: jdl.export.export(folder, to, "
            "run=run(config))."
        ) from error
    return Program(name, exported, of_names, time)


def symbolic_shapes(specs: Mapping[str, Any], time: int | None = None) -> Specs:
    """The specs with a symbolic batch, the first axis; numbers have none.

    With `time`, the second axis is symbolic where it has that size, from 1 to `time`.
    """
    limits = [f"{TIME_AXIS}>=1", f"{TIME_AXIS}<={time}"] if time else []
    scope = jax.export.SymbolicScope([f"{BATCH_AXIS}>=1", *limits])
    found = {}
    for name, spec in specs.items():
        second = TIME_AXIS if time and spec.shape[1:2] == (time,) else "_"
        dims = ", ".join([BATCH_AXIS, second, *["_"] * (spec.ndim - 2)][: spec.ndim])
        shape = jax.export.symbolic_shape(dims, scope=scope, like=spec.shape)
        found[name] = jax.ShapeDtypeStruct(shape, spec.dtype)
    return found


def _portable() -> AbstractContextManager[None]:
    """On a GPU, half-precision attention would be cuDNN's for all platforms: it is plain then."""
    return plain_implementations() if jax.default_backend() == "gpu" else nullcontext()
