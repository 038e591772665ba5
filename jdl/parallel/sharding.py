"""Sharding of a learner and its data: data parallel, fully sharded (FSDP), tensor parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, use_abstract_mesh

from jdl.layers import gathering_params
from jdl.learners.wrapper import Wrapper
from jdl.objectives.override import override
from jdl.parallel.mesh import TRANSFORMER, Rules, batch_sharding, replicated, shardings
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Key,
    Learner,
    Loader,
    LossOutput,
    Metrics,
    Objective,
    State,
    Variables,
)


def shard_learner(learner: Learner, mesh: Mesh, rules: Rules = TRANSFORMER) -> ShardedLearner:
    """The same learner, data parallel, fully sharded (FSDP) or tensor parallel, as the mesh says.

    Its state is created in its sharding: no device ever holds all of it. It computes what one
    device computes, except for the order of sums (docs/devices.md).
    """
    return ShardedLearner(learner, mesh, rules)


@dataclass(frozen=True, eq=False)
class ReplicatedMetrics(Wrapper):
    """A learner whose evaluation replicates loss and metrics on all devices of a mesh."""

    mesh: Mesh

    @property
    def objective(self) -> Objective:  # type: ignore[override]
        """The learner's objective, with replicated loss and metrics."""
        return replicate_metrics(self.learner.objective, self.mesh)


@dataclass(frozen=True, eq=False)
class ShardedLearner(ReplicatedMetrics):
    """A learner on a mesh of devices; see `shard_learner`."""

    rules: Rules

    def init(self, key: Key, batch: Batch) -> State:
        """The initial state, sharded."""
        return self._place(self.learner.init(key, batch))

    def step(self, state: State, raw: Any) -> tuple[State, Metrics]:
        """One step; parameters that "fsdp" divides are gathered only where a loss uses them."""
        cut = self.mesh.shape.get("fsdp", 1) > 1
        gather = Gather(self.mesh, tuple(self.rules)) if cut else None
        with gathering_params(gather), use_abstract_mesh(self.mesh.abstract_mesh):
            new, metrics = self.learner.step(state, raw)
        metrics = jax.lax.with_sharding_constraint(metrics, replicated(self.mesh))
        return self._place(new), metrics

    def _place(self, state: State) -> State:
        return jax.lax.with_sharding_constraint(state, shardings(self.mesh, state, self.rules))


@dataclass(frozen=True)
class Gather:
    """The all-gather of the parameters of a fully sharded learner (FSDP): see `gather_params`.

    The gradients of what is gathered are reduced and divided like the parameters (reduce-scatter),
    so that the optimizer's update is computed on each device's part alone (ZeRO-3, Rajbhandari et
    al., 2020).
    """

    mesh: Mesh
    rules: Rules

    def __call__(self, params: Any) -> Any:
        """The parameters, whole along "fsdp"."""
        divided = shardings(self.mesh, params, self.rules)
        whole = shardings(self.mesh, params, self.rules, in_use=True)
        return jax.tree.map(_all_gather, params, divided, whole)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _all_gather(leaf: Array, divided: NamedSharding, whole: NamedSharding) -> Array:
    # Mixed precision casts before: the first constraint keeps the cast on the parts, which halves
    # the bytes that are sent. The second keeps XLA from dividing activations like the parameters,
    # instead of by rows of the batch.
    constrain = jax.lax.with_sharding_constraint
    return constrain(constrain(leaf, divided), whole)


def _all_gather_forward(
    leaf: Array, divided: NamedSharding, whole: NamedSharding
) -> tuple[Array, None]:
    return _all_gather(leaf, divided, whole), None


def _reduce_scatter(
    divided: NamedSharding, whole: NamedSharding, _: None, gradient: Array
) -> tuple[Array]:
    # By a constraint's own gradient, the same constraint, it would be made whole (all-reduce).
    return (jax.lax.with_sharding_constraint(gradient, divided),)


_all_gather.defvjp(_all_gather_forward, _reduce_scatter)


def replicate_metrics(objective: Objective, mesh: Mesh) -> Objective:
    """The same objective, with loss and metrics replicated, so that each process can read them."""

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        with use_abstract_mesh(mesh.abstract_mesh):  # for attention on TPUs
            output = objective.loss(variables, batch, key, train)
        loss, metrics = jax.lax.with_sharding_constraint(
            (output.loss, output.metrics), replicated(mesh)
        )
        return LossOutput(loss, metrics, output.model_state)

    return override(objective, loss=loss)


def abstract_state(mesh: Mesh, like: State, rules: Rules = TRANSFORMER) -> State:
    """The shapes, types and shardings of a state on the mesh, to restore a checkpoint."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        like,
        shardings(mesh, like, rules),
    )


def shard_data(data: Loader, mesh: Mesh) -> ShardedLoader:
    """Data parallel loading: the rows of each batch are divided among the devices.

    A batch that cannot be divided evenly is replicated. Each process reads only the rows of its own
    devices.
    """
    return ShardedLoader(data, mesh)


class DevicePut:
    """Puts raw batches on devices; an array that the one before had too is put only once."""

    def __init__(self, put: Callable[[Any], Array]) -> None:
        self.put = put
        # By id; the array itself is kept too, so that no other array can get its id.
        self.last = dict[int, tuple[Any, Array]]()

    def __call__(self, raw: Any) -> Any:
        """The raw data with its arrays on the devices."""
        leaves, treedef = jax.tree.flatten(raw)
        self.last = {id(leaf): self.last.get(id(leaf)) or (leaf, self.put(leaf)) for leaf in leaves}
        return jax.tree.unflatten(treedef, [self.last[id(leaf)][1] for leaf in leaves])


def _put(leaf: Any, sharding: NamedSharding, first: int = 0, size: int | None = None) -> Array:
    """A global array on the mesh, from this process's rows: those from `first` on, of `size`."""
    shape = leaf.shape if size is None else (size, *leaf.shape[1:])
    parts = []
    for device, index in _local_indices(sharding, shape):
        if first:
            start, end, _ = index[0].indices(shape[0])
            index = (slice(start - first, end - first), *index[1:])
        parts.append(jax.device_put(leaf[index], device))
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _local_indices(
    sharding: NamedSharding, shape: tuple[int, ...]
) -> list[tuple[Any, tuple[slice, ...]]]:
    """The devices of this process, and the slices of an array that each holds."""
    indices = sharding.addressable_devices_indices_map(shape)
    return [(device, index or ()) for device, index in indices.items()]


@dataclass(frozen=True, eq=False)
class ShardedLoader(Loader):
    """A loader whose batches are divided among devices; see `shard_data`."""

    data: Loader
    mesh: Mesh

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Batch:
        return {name: _put(column, self._sharding) for name, column in self.data[i].items()}

    @property
    def spec(self) -> Batch:
        """The shapes and types of a whole batch."""
        return self.data.spec

    @property
    def num_examples(self) -> int:
        """Examples in an epoch."""
        return self.data.num_examples

    @property
    def bounds(self) -> Bounds:
        """The data's."""
        return self.data.bounds

    @property
    def fingerprint(self) -> str:
        """The data's."""
        return self.data.fingerprint

    @property
    def _sharding(self) -> NamedSharding:
        return batch_sharding(self.mesh, self.data.batch_size)

    def read(self, start: int = 0) -> Iterator[Any]:
        """Raw data on the mesh: device arrays are replicated, rows from the host are divided."""
        size = self.data.batch_size
        mine = [rows.indices(size) for _, (rows, *_) in _local_indices(self._sharding, (size,))]
        part = slice(min(first for first, _, _ in mine), max(end for _, end, _ in mine))

        def put(leaf: Any) -> Array:
            if isinstance(leaf, np.ndarray):
                return _put(leaf, self._sharding, part.start, size)
            return _put(leaf, replicated(self.mesh))

        return map(DevicePut(put), self.data.shard(part).read(start))

    def batch(self, raw: Any, i: Array) -> Batch:
        """Batch i, with its rows divided among the devices."""
        return jax.lax.with_sharding_constraint(self.data.batch(raw, i), self._sharding)
