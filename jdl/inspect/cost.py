"""Cost of a training step: device memory, FLOPs, and the share of the peak FLOP/s."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh

from jdl.objectives.pretrained_model import leave_fresh
from jdl.parallel import (
    abstract_state,
    check_batch_size,
    parameter_rules,
    shard_data,
    shard_learner,
)
from jdl.run import Run
from jdl.types import Error, State

ROUNDS = 10
MATRIX_SIZE = {"cpu": 1024, "gpu": 8192, "tpu": 8192}  # of the matrices that measure the peak

# The matrix products of cuDNN's attention, whose inputs are (batch, steps, heads, width). The
# gradient computes the weights again.
CUDNN_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


@dataclass(frozen=True)
class Cost:
    """The cost of a step on one device: bytes, FLOPs, seconds, and the peak FLOP/s."""

    params: int
    opt_state: int
    model_state: int
    temporary: int  # activations, gradients and workspace, as XLA allocates them
    operations: int  # FLOPs of matrix products and convolutions, recomputed ones included
    seconds: float
    peak: float  # FLOP/s of a large matrix product

    def __str__(self) -> str:
        memory = {
            "parameters": self.params,
            "optimizer state": self.opt_state,
            "model state (BatchNorm, ...)": self.model_state,
            "activations, gradients": self.temporary,
        }
        lines = [f"{name:<28}{count / 2**20:>10,.2f} MiB" for name, count in memory.items()]
        lines += [
            f"{'total':<28}{sum(memory.values()) / 2**20:>10,.2f} MiB",
            f"{'time of a step':<28}{1e3 * self.seconds:>10,.2f} ms",
            *rate_lines(self.operations, self.seconds, self.peak),
        ]
        return "\n".join(lines)


def rate_lines(operations: int, seconds: float, peak: float) -> list[str]:
    """FLOPs of a step, and their rate beside the peak FLOP/s, for people."""
    rate = operations / seconds
    return [
        f"{'operations in a step':<28}{operations / 1e9:>10,.3f} GFLOP",
        f"{'rate':<28}{rate / 1e9:>10,.1f} GFLOP/s, {100 * rate / peak:.1f}% of the "
        f"{peak / 1e9:,.0f} that a large matrix product reaches",
    ]


def cost(run: Run, mesh: Mesh | None = None) -> Cost:
    """Compiles the step as `fit` does, for one device or a mesh, and times it; writes nothing.

    Raises `Error` for an elastic run, whose step consists of several programs.
    """
    if run.config.elastic:
        raise Error(
            "The step of an elastic run consists of several programs: measure the same run with "
            "--elastic 0."
        )
    learner, data = run.learner, run.train
    key, example = jax.random.key(run.config.seed), data[0]
    if mesh is not None:
        check_batch_size(mesh, data.batch_size)
        rules = parameter_rules(learner, data.spec, mesh)
        learner, example = shard_learner(learner, mesh, rules), shard_data(data, mesh)[0]
    with leave_fresh():  # the cost does not depend on pretrained weights
        state = jax.jit(learner.init)(key, example)
    like = abstract_state(mesh, state, rules) if mesh is not None else state
    traced = jax.jit(learner.step, donate_argnums=0).trace(like, example)
    step = traced.lower().compile()
    analysis = step.memory_analysis()
    devices = mesh.size if mesh is not None else 1
    return Cost(
        params=_bytes(state.params),
        opt_state=_bytes(state.opt_state),
        model_state=_bytes(state.model_state),
        temporary=analysis.temp_size_in_bytes if analysis else 0,
        operations=operations(traced.jaxpr.jaxpr) // devices,
        seconds=_step_seconds(step, state, example),
        peak=peak_rate(run.config.precision),
    )


def step_operations(run: Run) -> int:
    """FLOPs of one training step, as `operations` counts them: traced, not compiled or run."""
    example = run.train[0]
    with leave_fresh():
        state = jax.eval_shape(run.learner.init, jax.random.key(run.config.seed), example)
        return operations(jax.jit(run.learner.step).trace(state, example).jaxpr.jaxpr)


def _bytes(tree: Any) -> int:
    """The bytes of these arrays on the first of their devices."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def _step_seconds(step: Any, state: State, batch: Any) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state.params, metrics))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def peak_rate(precision: str) -> float:
    """The peak FLOP/s of one device, measured by a large matrix product."""
    size = MATRIX_SIZE.get(jax.default_backend(), 1024)
    a = jax.device_put(jnp.ones((size, size), precision), jax.devices()[0])
    multiply = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def operations(jaxpr: Jaxpr) -> int:
    """FLOPs of the matrix products and convolutions in a traced function.

    The body of a scan or of a Pallas kernel counts as often as it runs, a conditional as its most
    expensive branch.
    """
    return operations_by_scope(jaxpr).total()


def operations_by_scope(jaxpr: Jaxpr, scope: str = "") -> Counter[str]:
    """The FLOPs by the scope (`jax.named_scope`) of the operation: Flax's modules have one each."""
    found: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        here = f"{scope}/{equation.source_info.name_stack}"
        if name in ("dot_general", "conv_general_dilated"):
            left, right = (_shape(variable) for variable in equation.invars)
            if name == "dot_general":
                (contracted, _), _ = parameters["dimension_numbers"]
                terms = math.prod(left[axis] for axis in contracted)
            else:
                terms = math.prod(right) // right[parameters["dimension_numbers"].rhs_spec[0]]
            found[here] += 2 * math.prod(_shape(equation.outvars[0])) * terms
        if products := CUDNN_ATTENTION.get(name):
            (batch, steps, heads, width), keys = _shape(equation.invars[0]), equation.invars[1]
            found[here] += products * 2 * batch * heads * steps * _shape(keys)[1] * width
        inner = [operations_by_scope(p, here) for v in parameters.values() for p in _jaxprs(v)]
        if name == "cond":
            inner = [max(inner, key=Counter.total)]
        for part in inner:
            repeats = _repeats(name, parameters)
            found.update({key: repeats * count for key, count in part.items()})
    return found


def _repeats(name: str, parameters: dict[str, Any]) -> int:
    """How often an equation runs what is in it: a loop, a Pallas kernel, a part on each device."""
    if name == "scan":
        return parameters["length"]
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    if name == "shard_map":
        return parameters["mesh"].size
    return 1


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _jaxprs(value: Any) -> list[Jaxpr]:
    """The jaxprs in an equation's parameter: the body of a loop, branches, ..."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [jaxpr for part in value for jaxpr in _jaxprs(part)]
    return []
