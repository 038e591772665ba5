"""A learner and its data on a mesh: the same program, with its arrays laid out over many devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jdl.parallel.mesh import TRANSFORMER, Rules, replicated, rows, shardings
from jdl.types import (
    Array,
    Batch,
    Loader,
    Key,
    Learner,
    Metrics,
    Objective,
    LossOutput,
    State,
    Variables,
)


def sharded(learner: Learner, mesh: Mesh, rules: Rules = TRANSFORMER) -> Learner:
    """The same learner, whose state lies on the mesh from its first moment: no device ever holds the whole of it.

    What is computed is what one device computes, but for the order of sums (docs/devices.md).
    """

    def lay_out(state: State) -> State:
        return jax.lax.with_sharding_constraint(state, shardings(mesh, state, rules))

    def init(key: Key, batch: Batch) -> State:
        return lay_out(learner.init(key, batch))

    def step(state: State, source: Any) -> tuple[State, Metrics]:
        # Else the compiler may cut activations as the parameters are cut, and batches no more.
        gathered = jax.lax.with_sharding_constraint(
            state.params, shardings(mesh, state.params, rules, in_use=True)
        )
        new, metrics = learner.step(replace(state, params=gathered), source)
        return lay_out(new), jax.lax.with_sharding_constraint(metrics, replicated(mesh))

    return replace(
        learner, init=init, step=step, objective=replicate_metrics(learner.objective, mesh)
    )


def replicate_metrics(objective: Objective, mesh: Mesh) -> Objective:
    """The same objective, whose loss and metrics every device has whole: each process can read them."""

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        out = objective.loss(variables, batch, key, train)
        loss, metrics = jax.lax.with_sharding_constraint((out.loss, out.metrics), replicated(mesh))
        return LossOutput(loss, metrics, out.model_state)

    return replace(objective, loss=loss)


def abstract_state(mesh: Mesh, like: State, rules: Rules = TRANSFORMER) -> State:
    """The shapes and types of a state with the shardings that `sharded` gives it: what to restore it as."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        like,
        shardings(mesh, like, rules),
    )


def shard_data(data: Loader, mesh: Mesh) -> Loader:
    """The same data, with the rows of each batch divided among the devices, where these divide them.

    Each process reads the rows of its own devices.
    """
    return _Spread(data, mesh)


class Placing:
    """Puts the arrays of one source after the other by `put`; those that stay from one to the next, only once."""

    def __init__(self, put: Callable[[Any], Array]) -> None:
        self.put, self.last = (
            put,
            dict[int, tuple[Any, Array]](),
        )  # the array itself is kept, so that its id is its own

    def __call__(self, source: Any) -> Any:
        """The source, placed."""
        leaves, form = jax.tree.flatten(source)
        self.last = {id(leaf): self.last.get(id(leaf)) or (leaf, self.put(leaf)) for leaf in leaves}
        return jax.tree.unflatten(form, [self.last[id(leaf)][1] for leaf in leaves])


def _put(leaf: Any, sharding: NamedSharding, first: int = 0, size: int | None = None) -> Array:
    """An array on the mesh, from what this process has of it: the rows from `first` on, of `size` in all."""
    shape = leaf.shape if size is None else (size, *leaf.shape[1:])
    parts = []
    for device, index in _pieces(sharding, shape):
        if first:
            start, end, _ = index[0].indices(shape[0])
            index = (slice(start - first, end - first), *index[1:])
        parts.append(jax.device_put(leaf[index], device))
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _pieces(sharding: NamedSharding, shape: tuple[int, ...]) -> list[tuple[Any, tuple[slice, ...]]]:
    """The devices of this process, and the piece of an array that each has."""
    return [
        (device, index or ())
        for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]


@dataclass(frozen=True, eq=False)
class _Spread:
    data: Loader
    mesh: Mesh

    @property
    def _rows(self) -> NamedSharding:
        return rows(self.mesh, self.data.size)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Batch:
        return {name: _put(column, self._rows) for name, column in self.data[i].items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def read(self, start: int = 0) -> Iterator[Any]:
        """Sources on the mesh: arrays that stay from step to step lie whole on every device, fresh rows are divided."""
        size = self.data.size
        mine = [rows.indices(size) for _, (rows, *_) in _pieces(self._rows, (size,))]
        part = slice(min(first for first, _, _ in mine), max(end for _, end, _ in mine))

        def put(leaf: Any) -> Array:
            if isinstance(leaf, np.ndarray):
                return _put(leaf, self._rows, part.start, size)
            return _put(leaf, replicated(self.mesh))

        return map(Placing(put), self.data.shard(part).read(start))

    def batch(self, source: Any, i: Array) -> Batch:
        return jax.lax.with_sharding_constraint(self.data.batch(source, i), self._rows)
