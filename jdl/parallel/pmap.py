"""Data parallel training by `jax.pmap`: each device computes its rows, then an all-reduce."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdl.keys import stream
from jdl.layers import BATCH_AXIS, psum_batch
from jdl.learners.compilation import CompiledLearner, jit_init
from jdl.parallel.divisible import check_divisible
from jdl.parallel.mesh import replicated
from jdl.parallel.sharding import ReplicatedMetrics
from jdl.types import (
    BATCH_STATS,
    Batch,
    Gradients,
    Key,
    Learner,
    Loader,
    LossOutput,
    Metrics,
    State,
    Variables,
)


def pmap_learner(learner: Learner, data: Loader, mesh: Mesh) -> Learner:
    """Data parallel by `jax.pmap`: the learner with its data, over the devices of a `pmap_mesh`.

    Gradients, losses, metrics, and the sums and counts of BatchNorm are summed over all devices,
    and divided once; dropout masks are those of training on one device. (Flax's own BatchNorm and
    Dropout read and draw for each device alone.) Raises `Error` for a
    learner whose batches cannot be divided.
    """
    check_divisible(learner, data, "--parallel pmap")

    def init(key: Key, batch: Batch) -> State:
        return jax.lax.with_sharding_constraint(learner.init(key, batch), replicated(mesh))

    def step_on_device(state: State, batch: Batch) -> tuple[State, Metrics]:
        gradients = learner.grads(state, batch, stream(state.key, "loss", state.step))
        output = gradients.output
        grads, loss, metrics = psum_batch((gradients.grads, output.loss, output.metrics))
        model_state = _mean_statistics(output.model_state)
        total = Gradients(grads, LossOutput(loss, metrics, model_state))
        return learner.apply_gradients(state, total)

    def split(raw: Any, i: jax.Array) -> Batch:
        """Batch i, with columns (devices, B / devices, ...)."""
        batch = data.batch(raw, i)
        parts = {name: x.reshape(mesh.size, -1, *x.shape[1:]) for name, x in batch.items()}
        sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
        return jax.lax.with_sharding_constraint(parts, sharding)

    pmapped = jax.pmap(
        step_on_device,
        BATCH_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
        donate_argnums=0,
    )
    split = jax.jit(split)

    def step(state: State, raw: Any) -> tuple[State, Metrics]:
        return pmapped(state, split(raw, state.step))

    return CompiledLearner(ReplicatedMetrics(learner, mesh), jit_init(init, one_device=False), step)


def _mean_statistics(model_state: Variables) -> Variables:
    """The model state with the means over all devices of BatchNorm's running statistics.

    Those of our own BatchNorm are equal already, and stay as they are: a mean would round them.
    """
    if BATCH_STATS not in model_state:
        return model_state

    def mean(leaf: jax.Array) -> jax.Array:
        leaves = jax.lax.all_gather(leaf, BATCH_AXIS)
        return jnp.where((leaves == leaves[:1]).all(), leaf, leaves.mean(0))

    return {**model_state, BATCH_STATS: jax.tree.map(mean, model_state[BATCH_STATS])}
