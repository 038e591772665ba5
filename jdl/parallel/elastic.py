"""The same bits on 1, 2, 4 or more devices: a batch is cut into a fixed number of shards, whoever computes them.

All arithmetic runs in programs of one device that are the same however many devices there are, or in one that only
moves data and adds in a fixed order. What has been tried besides is in docs/devices.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdl.keys import stream
from jdl.learners.descent import cut
from jdl.parallel.divisible import halves_of
from jdl.parallel.sharding import Placing
from jdl.types import (
    STATISTICS,
    Array,
    Batch,
    Loader,
    Error,
    Halves,
    Learner,
    Metrics,
    LossOutput,
    State,
    Sums,
    Variables,
)


def elastic(
    learner: Learner, data: Loader, shards: int = 8, devices: Sequence[Any] | None = None
) -> Learner:
    """The learner, fed and compiled, whose bits do not depend on the number of devices that share its work.

    Shard v of a batch has its rows v, v + shards, ... and the key `fold_in(key, v)`; BatchNorm normalises within a
    shard. Each device computes its shards in a loop and adds them pairwise, and the devices' sums are added in the same
    tree. On a CPU, XLA is slow at convolutions in loops unless they are those of `jdl.layers`. The state that `step`
    takes and gives lies on the first device of each process; the others keep copies of it, equal to the bit. Raises
    `Error` where shards or devices are no powers of two, or the batch cannot be cut so.
    """
    devices = list(devices or jax.devices()[:1])
    halves = halves_of(learner, data, "--elastic")
    for name, count in (("shards", shards), ("devices", len(devices))):
        if count < 1 or count & (count - 1):
            raise Error(
                f"The {name} of an elastic run must be 1, 2, 4, 8 or a greater power of two, and not {count}."
            )
    if len(devices) > shards:
        raise Error(
            f"{len(devices)} devices cannot share {shards} shards: take as many devices, or fewer."
        )
    if data.size % shards:
        raise Error(
            f"A batch of {data.size} rows cannot be cut into {shards} equal shards: take a multiple."
        )
    steps = _Elastic(halves, data, shards, devices)
    return replace(learner, init=jax.jit(learner.init), step=steps.step)


class _Elastic:
    """The programs, and the other devices' copies of the newest state."""

    def __init__(self, halves: Halves, data: Loader, shards: int, devices: Sequence[Any]) -> None:
        self.halves, self.data, self.shards, self.devices = halves, data, shards, devices
        self.own = {
            d: device
            for d, device in enumerate(devices)
            if device.process_index == jax.process_index()
        }
        self.newest: list[State] = []
        self.placing = [
            Placing(partial(jax.device_put, device=device)) for device in self.own.values()
        ]
        self.batch = jax.jit(data.batch)
        self.sums = jax.jit(self._sums)
        self.update = jax.jit(self._update, donate_argnums=0)

    def step(self, state: State, source: Any) -> tuple[State, Metrics]:
        """One step, on all devices."""
        if not self.newest or self.newest[0] is not state:
            self.newest = [jax.device_put(state, device) for device in self.own.values()]
        batches = [
            self.batch(put(source), s.step)
            for put, s in zip(self.placing, self.newest, strict=True)
        ]
        each = np.int32(self.shards // len(self.devices))
        own = zip(self.own, self.newest, batches, strict=True)
        totals = self._over_devices(
            [self.sums(s, batch, np.int32(d) * each, each) for d, s, batch in own]
        )
        results = [self.update(s, total) for s, total in zip(self.newest, totals, strict=True)]
        self.newest = [new for new, _ in results]
        return results[0]

    def _sums(self, state: State, batch: Batch, first: Array, count: Array) -> Any:
        """The sums of `count` shards from `first` on, a power of two: one program for all counts, so with equal bits.

        They are added like a binary counter counts, by a stack of the sums of the last 1, 2, 4, ... shards: a tree that
        is a part of the one over all shards.
        """
        shapes = jax.eval_shape(self._one, state, batch, first)
        levels = max(1, self.shards.bit_length() - 1)
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        stack = jax.tree.map(lambda leaf: jnp.zeros((levels, *leaf.shape), leaf.dtype), shapes)

        def following(n: Array, so_far: tuple[Any, Any]) -> tuple[Any, Any]:
            stack, _ = so_far

            def more(at: tuple[Array, Any]) -> Array:
                return (n >> at[0]) & 1 == 1

            def joined(at: tuple[Array, Any]) -> tuple[Array, Any]:
                level, sums = at
                return level + 1, jax.tree.map(lambda leaf, new: leaf[level] + new, stack, sums)

            level, sums = lax.while_loop(
                more, joined, (jnp.zeros((), jnp.int32), self._one(state, batch, first + n))
            )
            # The sum over all shards has no level: it goes to the last one, which is not read any more.
            put = partial(lax.dynamic_update_index_in_dim, index=level, axis=0)
            return jax.tree.map(put, stack, sums), sums

        return lax.fori_loop(0, count, following, (stack, none))[1]

    def _one(self, state: State, batch: Batch, v: Array) -> Any:
        """The sums of shard v, in a form that only adds, and with an axis for the devices in front."""
        part = {name: columns[v] for name, columns in cut(batch, self.shards).items()}
        key = jax.random.fold_in(stream(state.key, "loss", state.step), v)
        sums = self.halves.sums(state, part, key)
        weight = sums.out.loss.count
        model_state = {
            name: sums.out.model_state[name] for name in sums.out.model_state if name == STATISTICS
        }
        weighed = jax.tree.map(lambda leaf: (leaf * weight).astype(leaf.dtype), model_state)
        out = LossOutput(sums.out.loss, sums.out.metrics, weighed)
        return jax.tree.map(lambda leaf: leaf[None], Sums(sums.grads, out))

    def _update(self, state: State, total: Any) -> tuple[State, Metrics]:
        sums = jax.tree.map(lambda leaf: leaf[0], total)
        weight = sums.out.loss.count
        model_state: Variables = dict(state.model_state)
        if STATISTICS in model_state:
            model_state[STATISTICS] = jax.tree.map(
                lambda new, old: jnp.where(
                    weight > 0, (new / jnp.where(weight > 0, weight, 1)).astype(old.dtype), old
                ),
                sums.out.model_state[STATISTICS],
                model_state[STATISTICS],
            )
        return self.halves.update(
            state, replace(sums, out=replace(sums.out, model_state=model_state))
        )

    def _over_devices(self, totals: list[Any]) -> list[Any]:
        """The sum of all devices' totals, on each of those of this process."""
        if len(self.devices) == 1:
            return totals
        leaves, forms = zip(*(jax.tree.flatten(total) for total in totals), strict=True)
        spread = [
            jax.make_array_from_single_device_arrays(
                (len(self.devices), *parts[0].shape[1:]), self._sharding, list(parts)
            )
            for parts in zip(*leaves, strict=True)
        ]
        summed = self._butterfly(spread)
        by_device = [
            {shard.device: shard.data for shard in leaf.addressable_shards} for leaf in summed
        ]
        return [
            forms[0].unflatten([leaf[device] for leaf in by_device]) for device in self.own.values()
        ]

    @cached_property
    def _sharding(self) -> NamedSharding:
        return NamedSharding(Mesh(np.asarray(self.devices), ("devices",)), PartitionSpec("devices"))

    @cached_property
    def _butterfly(self) -> Any:
        """Adds with the neighbour, then with the neighbour's neighbour, ...: each device computes the same tree."""
        count = len(self.devices)

        def add(leaves: list[Array]) -> list[Array]:
            distance = 1
            while distance < count:
                pairs = [(n, n ^ distance) for n in range(count)]
                leaves = [leaf + lax.ppermute(leaf, "devices", pairs) for leaf in leaves]
                distance *= 2
            return leaves

        spec = PartitionSpec("devices")
        whole = jax.shard_map(
            add, mesh=self._sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        return jax.jit(whole, donate_argnums=0)
