"""What a step of a run costs on a device: memory, operations, and the share of the device's peak that it reaches."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh

from jdl.parallel import check_batch_size, shard_learner, abstract_state, shard_data
from jdl.types import Error, Run, State

ROUNDS = 10
SQUARE = {"cpu": 1024, "gpu": 8192, "tpu": 8192}  # of the product that shows what the device can do


@dataclass(frozen=True)
class Cost:
    """Bytes and operations of one device; seconds of a step, and operations a second that a large product reaches."""

    params: int
    optimizer: int
    carried: int
    temporary: int  # activations, gradients and workspace, as XLA lays them out
    operations: int  # additions and multiplications in products and convolutions, those that are repeated too
    seconds: float
    peak: float

    def __str__(self) -> str:
        held = {
            "parameters": self.params,
            "optimizer state": self.optimizer,
            "carried (BatchNorm, ...)": self.carried,
            "activations, gradients": self.temporary,
        }
        lines = [f"{name:<26}{count / 2**20:>12,.2f} MiB" for name, count in held.items()]
        reached = self.operations / self.seconds
        lines += [
            f"{'together':<26}{sum(held.values()) / 2**20:>12,.2f} MiB",
            f"{'products in a step':<26}{self.operations / 1e9:>12,.3f} GFLOP",
            f"{'a step':<26}{1e3 * self.seconds:>12,.2f} ms",
            f"{'reached':<26}{reached / 1e9:>12,.1f} GFLOP/s, {100 * reached / self.peak:.1f}% of the "
            f"{self.peak / 1e9:,.0f} that a large product reaches",
        ]
        return "\n".join(lines)


def cost(run: Run, mesh: Mesh | None = None) -> Cost:
    """Compiles the run's step as `fit` does, for one device or a mesh, and times some steps. Nothing is written.

    Raises `Error` for elastic runs, whose step is many programs.
    """
    if run.config.elastic:
        raise Error(
            "The step of an elastic run is many programs: look at the same run with --elastic 0."
        )
    learner, data = run.learner, run.train
    key, example = jax.random.key(run.config.seed), data[0]
    if mesh is not None:
        check_batch_size(mesh, data.size)
        learner, example = shard_learner(learner, mesh), shard_data(data, mesh)[0]
    state = jax.jit(learner.init)(key, example)
    like = placed(mesh, state) if mesh is not None else state
    traced = jax.jit(learner.step, donate_argnums=0).trace(like, example)
    step = traced.lower().compile()
    analysis = step.memory_analysis()
    devices = mesh.size if mesh is not None else 1
    return Cost(
        params=_bytes(state.params),
        optimizer=_bytes(state.opt_state),
        carried=_bytes(state.model_state),
        temporary=analysis.temp_size_in_bytes if analysis else 0,
        operations=operations(traced.jaxpr.jaxpr) // devices,
        seconds=_seconds(step, state, example),
        peak=_peak(run.config.precision),
    )


def _bytes(tree: Any) -> int:
    """The bytes of these arrays on the first of their devices."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def _seconds(step: Any, state: State, batch: Any) -> float:
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state.params, metrics))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _peak(precision: str) -> float:
    """Operations a second of one device in a large product."""
    size = SQUARE.get(jax.default_backend(), 1024)
    a = jax.device_put(jnp.ones((size, size), precision), jax.devices()[0])
    multiply = jax.jit(jnp.matmul)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        multiply(a, a).block_until_ready()
        taken.append(time.perf_counter() - began)
    return 2 * size**3 / min(taken)


def operations(jaxpr: Jaxpr) -> int:
    """Additions and multiplications of the products and convolutions in a traced function, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            left, right = (_shape(variable) for variable in equation.invars)
            if name == "dot_general":
                (contracted, _), _ = parameters["dimension_numbers"]
                terms = math.prod(left[axis] for axis in contracted)
            else:
                terms = math.prod(right) // right[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(_shape(equation.outvars[0])) * terms
        inner = [operations(part) for value in parameters.values() for part in _jaxprs(value)]
        if inner:
            times = parameters["length"] if name == "scan" else 1
            total += times * (max(inner) if name == "cond" else sum(inner))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [jaxpr for part in value for jaxpr in _jaxprs(part)]
    return []
