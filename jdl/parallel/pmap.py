"""A learner under `jax.pmap`: each device computes its rows, and sums are exchanged explicitly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdl.keys import stream
from jdl.layers import BATCH_AXIS, psum_batch
from jdl.parallel.divisible import halves_of
from jdl.parallel.mesh import replicated
from jdl.parallel.sharding import replicate_metrics
from jdl.types import Batch, Loader, Key, Learner, Metrics, LossOutput, State, Sums


def pmapped(learner: Learner, data: Loader, mesh: Mesh) -> Learner:
    """The learner, fed and compiled by `jax.pmap`, with `data` spread over the devices of a `line`.

    Gradients, loss and metrics, and the sums and counts of BatchNorm, are added over all of them and divided once.
    Dropout draws what it draws for the whole batch. Raises `Error` for a learner whose batches cannot be divided.
    """
    halves = halves_of(learner, data, "--parallel pmap")

    def init(key: Key, batch: Batch) -> State:
        return jax.lax.with_sharding_constraint(learner.init(key, batch), replicated(mesh))

    def one(state: State, batch: Batch) -> tuple[State, Metrics]:
        sums = halves.sums(state, batch, stream(state.key, "loss", state.step))
        grads, loss, metrics = psum_batch((sums.grads, sums.out.loss, sums.out.metrics))
        return halves.update(state, Sums(grads, LossOutput(loss, metrics, sums.out.model_state)))

    def cut(source: Any, i: jax.Array) -> Batch:
        """Columns (devices, B / devices, ...)."""
        batch = data.batch(source, i)
        parts = {
            name: column.reshape(mesh.size, -1, *column.shape[1:]) for name, column in batch.items()
        }
        return jax.lax.with_sharding_constraint(
            parts, NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
        )

    devices = list(mesh.devices.flat)
    all_devices = jax.pmap(
        one, BATCH_AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0
    )
    batch = jax.jit(cut)

    def step(state: State, source: Any) -> tuple[State, Metrics]:
        return all_devices(state, batch(source, state.step))

    return replace(
        learner, init=jax.jit(init), step=step, objective=replicate_metrics(learner.objective, mesh)
    )
