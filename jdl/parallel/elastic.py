"""Elastic data parallel training: the same bits on 1, 2, 4 or more devices.

A batch is cut into a fixed number of virtual shards, however many devices compute them. All
arithmetic runs in single-device programs, which are the same for any number of devices, or in one
program that only moves data and adds in a fixed order. docs/devices.md lists simpler designs that
failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdl.keys import stream
from jdl.learners.compilation import CompiledLearner, jit_init
from jdl.learners.descent import split_batch
from jdl.parallel.divisible import check_divisible
from jdl.parallel.sharding import DevicePut
from jdl.types import (
    BATCH_STATS,
    Array,
    Batch,
    Error,
    Gradients,
    Learner,
    Loader,
    LossOutput,
    Metrics,
    State,
)


def elastic(
    learner: Learner, data: Loader, shards: int = 8, devices: Sequence[Any] | None = None
) -> Learner:
    """Elastic data parallel training: the learner's bits do not depend on the number of devices.

    Virtual shard v of a batch has its rows v, v + shards, ... and the key `fold_in(key, v)`;
    BatchNorm normalizes within a shard. Each device computes its shards in a loop and adds their
    gradients pairwise, and the devices' sums are added in the same tree. On a CPU, use the
    convolutions of `jdl.layers`: XLA's are slow in loops. The state that `step` takes and returns
    is on the first device of each process; the other devices keep identical copies. Raises `Error`
    where `shards` or the number of devices is not a power of two, or `shards` does not divide the
    batch size.
    """
    devices = list(devices or jax.devices()[:1])
    check_divisible(learner, data, "--elastic")
    for name, count in (("shards", shards), ("devices", len(devices))):
        if count < 1 or count & (count - 1):
            raise Error(
                f"The number of {name} of an elastic run must be a power of two (1, 2, 4, 8, ...), "
                f"not {count}."
            )
    if len(devices) > shards:
        raise Error(
            f"{len(devices)} devices cannot share {shards} shards: use at most {shards} devices."
        )
    if data.batch_size % shards:
        raise Error(
            f"A batch of {data.batch_size} rows cannot be cut into {shards} equal shards: choose a "
            f"batch size that is a multiple of {shards}."
        )
    steps = _ElasticStep(learner, data, shards, devices)
    return CompiledLearner(learner, jit_init(learner.init), steps)


class _ElasticStep:
    """The step of elastic training: its compiled programs, and each device's copy of the state."""

    def __init__(self, learner: Learner, data: Loader, shards: int, devices: Sequence[Any]) -> None:
        self.learner, self.shards, self.devices = learner, shards, devices
        process = jax.process_index()
        self.local = {d: dev for d, dev in enumerate(devices) if dev.process_index == process}
        self.states: list[State] = []
        self.placements = [
            DevicePut(partial(jax.device_put, device=device)) for device in self.local.values()
        ]
        self.batch = jax.jit(data.batch)
        self.sum_shards = jax.jit(self._sum_shards)
        self.update = jax.jit(self._update, donate_argnums=0)

    def __call__(self, state: State, raw: Any) -> tuple[State, Metrics]:
        """One step, on all devices."""
        if not self.states or self.states[0] is not state:
            self.states = [jax.device_put(state, device) for device in self.local.values()]
        batches = [
            self.batch(put(raw), state.step)
            for put, state in zip(self.placements, self.states, strict=True)
        ]
        count = np.int32(self.shards // len(self.devices))
        sums = self._all_reduce(
            [
                self.sum_shards(state, batch, np.int32(d) * count, count)
                for d, state, batch in zip(self.local, self.states, batches, strict=True)
            ]
        )
        results = [self.update(s, total) for s, total in zip(self.states, sums, strict=True)]
        self.states = [new for new, _ in results]
        return results[0]

    def _sum_shards(self, state: State, batch: Batch, first: Array, count: Array) -> Any:
        """The gradients summed over shards first, ..., first + count - 1, in a binary tree.

        `count` is a power of two and an input, so that one program serves all counts. Pairwise
        summation with a stack of the sums of 1, 2, 4, ... shards, like the carries of a binary
        counter: the tree is a subtree of the one over all shards.
        """
        shapes = jax.eval_shape(self._shard_gradients, state, batch, first)
        levels = max(1, self.shards.bit_length() - 1)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        stack = jax.tree.map(lambda leaf: jnp.zeros((levels, *leaf.shape), leaf.dtype), shapes)

        def add_shard(n: Array, so_far: tuple[Any, Any]) -> tuple[Any, Any]:
            stack, _ = so_far

            def carries(at: tuple[Array, Any]) -> Array:
                return (n >> at[0]) & 1 == 1

            def add_level(at: tuple[Array, Any]) -> tuple[Array, Any]:
                level, total = at
                return level + 1, jax.tree.map(lambda leaf, new: leaf[level] + new, stack, total)

            start = (jnp.zeros((), jnp.int32), self._shard_gradients(state, batch, first + n))
            level, total = lax.while_loop(carries, add_level, start)
            # The sum over all shards has no level of its own: it overwrites the last one, which is
            # not read again.
            put = partial(lax.dynamic_update_index_in_dim, index=level, axis=0)
            return jax.tree.map(put, stack, total), total

        return lax.fori_loop(0, count, add_shard, (stack, zero))[1]

    def _shard_gradients(self, state: State, batch: Batch, v: Array) -> Gradients:
        """The gradients of shard v, with a leading axis of size 1 for the devices.

        Running statistics are weighted by the shard's count, so that they can be summed.
        """
        shard = {name: columns[v] for name, columns in split_batch(batch, self.shards).items()}
        key = jax.random.fold_in(stream(state.key, "loss", state.step), v)
        gradients = self.learner.grads(state, shard, key)
        output, weight = gradients.output, gradients.output.loss.count
        stats = {name: v for name, v in output.model_state.items() if name == BATCH_STATS}
        weighted = jax.tree.map(lambda leaf: (leaf * weight).astype(leaf.dtype), stats)
        summable = Gradients(gradients.grads, LossOutput(output.loss, output.metrics, weighted))
        return jax.tree.map(lambda leaf: leaf[None], summable)

    def _update(self, state: State, total: Gradients) -> tuple[State, Metrics]:
        """The optimizer's update by the summed gradients; running statistics are averaged."""
        total = jax.tree.map(lambda leaf: leaf[0], total)
        output, weight = total.output, total.output.loss.count
        model_state = dict(state.model_state)
        if BATCH_STATS in model_state:
            model_state[BATCH_STATS] = jax.tree.map(
                lambda new, old: jnp.where(
                    weight > 0, (new / jnp.where(weight > 0, weight, 1)).astype(old.dtype), old
                ),
                output.model_state[BATCH_STATS],
                model_state[BATCH_STATS],
            )
        output = LossOutput(output.loss, output.metrics, model_state)
        return self.learner.apply_gradients(state, Gradients(total.grads, output))

    def _all_reduce(self, sums: list[Any]) -> list[Any]:
        """The sum over all devices, on each device of this process."""
        if len(self.devices) == 1:
            return sums
        leaves, treedefs = zip(*(jax.tree.flatten(total) for total in sums), strict=True)
        divided = [
            jax.make_array_from_single_device_arrays(
                (len(self.devices), *parts[0].shape[1:]), self._sharding, list(parts)
            )
            for parts in zip(*leaves, strict=True)
        ]
        reduced = self._butterfly(divided)
        shards = [
            {shard.device: shard.data for shard in leaf.addressable_shards} for leaf in reduced
        ]
        return [
            treedefs[0].unflatten([leaf[device] for leaf in shards])
            for device in self.local.values()
        ]

    @cached_property
    def _sharding(self) -> NamedSharding:
        return NamedSharding(Mesh(np.asarray(self.devices), ("devices",)), PartitionSpec("devices"))

    @cached_property
    def _butterfly(self) -> Any:
        """A butterfly all-reduce: each device adds the sum of the one 1, 2, 4, ... away."""
        count = len(self.devices)

        def all_reduce(leaves: list[Array]) -> list[Array]:
            distance = 1
            while distance < count:
                pairs = [(n, n ^ distance) for n in range(count)]
                leaves = [leaf + lax.ppermute(leaf, "devices", pairs) for leaf in leaves]
                distance *= 2
            return leaves

        spec = PartitionSpec("devices")
        mapped = jax.shard_map(
            all_reduce, mesh=self._sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        return jax.jit(mapped, donate_argnums=0)
