"""A learner under `jax.pmap`: each device computes its rows, and sums are exchanged explicitly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jdl.keys import stream
from jdl.layers import ROWS, over_rows
from jdl.parallel.mesh import everywhere
from jdl.parallel.placed import told_everywhere
from jdl.types import MEMORY, Batch, Data, Error, Halves, Key, Learner, Metrics, Out, State, Sums


def pmapped(learner: Learner, data: Data, mesh: Mesh) -> Learner:
    """The learner, fed and compiled by `jax.pmap`, with `data` spread over the devices of a `line`.

    Gradients, loss and metrics, and the sums and counts of BatchNorm, are added over all of them and divided once.
    Dropout draws what it draws for the whole batch. Raises `Error` for a learner whose batches cannot be divided.
    """
    halves = halves_of(learner, data, "--parallel pmap")

    def init(key: Key, batch: Batch) -> State:
        return jax.lax.with_sharding_constraint(learner.init(key, batch), everywhere(mesh))

    def one(state: State, batch: Batch) -> tuple[State, Metrics]:
        sums = halves.sums(state, batch, stream(state.key, "loss", state.step))
        grads, loss, metrics = over_rows((sums.grads, sums.out.loss, sums.out.metrics))
        return halves.update(state, Sums(grads, Out(loss, metrics, sums.out.carry)))

    def cut(source: Any, i: jax.Array) -> Batch:
        """Columns (devices, B / devices, ...)."""
        batch = data.batch(source, i)
        parts = {name: column.reshape(mesh.size, -1, *column.shape[1:]) for name, column in batch.items()}
        return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, PartitionSpec(ROWS)))

    devices = list(mesh.devices.flat)
    all_devices = jax.pmap(one, ROWS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0)
    batch = jax.jit(cut)

    def step(state: State, source: Any) -> tuple[State, Metrics]:
        return all_devices(state, batch(source, state.step))

    return replace(learner, init=jax.jit(init), step=step, objective=told_everywhere(learner.objective, mesh))


def line(devices: Sequence[Any]) -> Mesh:
    """The mesh that `jax.pmap` makes of these devices: states and batches lie on it between steps.

    Raises `Error` where several processes train.
    """
    if jax.process_count() > 1:
        raise Error("--parallel pmap is for the devices of one process: several divide batches with --mesh.")
    return Mesh(np.asarray(devices), (ROWS,), axis_types=(AxisType.Auto,))


def halves_of(learner: Learner, data: Data, way: str) -> Halves:
    """The learner's halves, for a way that divides batches by hand; `Error` where that cannot be."""
    if learner.halves is None:
        raise Error(f"{way} needs a learner whose step sums over its batch, like jdl.descent.")
    if MEMORY in jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), data.spec).carry:
        raise Error(f"{way} cannot divide a model that remembers the batch before: take RNN(remember=False).")
    return learner.halves
