"""A run's training step, compiled ahead of time for a mesh of devices that need not exist."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jdl.inspect.cost import operations
from jdl.layers.platform import compiled_for
from jdl.learners.compilation import jax_setting
from jdl.objectives.pretrained_model import leave_fresh
from jdl.parallel.mesh import batch_sharding, replicated
from jdl.train.placement import place_on_mesh
from jdl.types import Error, Run, State

# The compiler refuses in two ways: before and after it has laid out the memory.
TOTAL = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
TEMPORARIES = re.compile(
    r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
)
CACHED_FROM = "jax_persistent_cache_min_compile_time_secs"  # JAX's setting
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """The memory of a step on one chip, in bytes, by part.

    `arguments` (the train state and the data) and `temporaries` are what a chip must have at once:
    their sum is what overflows.
    """

    params: int
    opt_state: int
    other_state: int  # BatchNorm statistics, averaged parameters, keys
    data: int
    temporaries: int  # activations, gradients, gathered parameters, workspace

    @property
    def arguments(self) -> int:
        """What a step is given."""
        return self.params + self.opt_state + self.other_state + self.data

    @property
    def total(self) -> int:
        """Arguments and temporaries."""
        return self.arguments + self.temporaries

    def parts(self) -> dict[str, int]:
        """The bytes of each part, by what it is."""
        return {
            "parameters": self.params,
            "optimizer state": self.opt_state,
            "other state": self.other_state,
            "data": self.data,
            "temporaries": self.temporaries,
        }


@dataclass(frozen=True)
class CompiledStep:
    """A step that was compiled, or that the compiler refused for want of memory."""

    memory: Memory
    operations: int  # FLOPs of matrix products and convolutions, each counted once
    shares: int  # among which the mesh divides them
    seconds: float  # that it took to compile
    text: str  # the optimized HLO; "" where the step does not fit
    capacity: int | None  # bytes of a chip, where the compiler has told them


def compile_step(run: Run, mesh: Mesh, platform: str) -> CompiledStep:
    """Compiles the step as `fit` does, without a device, and without a number of the state.

    `run` has its config applied. Raises `Error` for an elastic run, whose step consists of several
    programs, and where the batch cannot be divided.
    """
    if run.config.elastic:
        raise Error(
            "The step of an elastic run consists of several programs: plan the same run with "
            "--elastic 0."
        )
    placement = place_on_mesh(run, mesh)
    with leave_fresh(), compiled_for(platform):  # memory does not depend on pretrained weights
        key = jax.eval_shape(jax.random.key, 0)
        state = placement.abstract(jax.eval_shape(run.learner.init, key, run.train.spec))
        raw = _raw_shapes(run, mesh)
        begun = time.perf_counter()
        traced = placement.learner.step_fn.trace(state, raw)  # type: ignore[attr-defined]
        lowered, text, capacity = traced.lower(), "", None
        try:
            with uncached() if platform == "tpu" else nullcontext():
                compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            memory, capacity = _overflow(error, _memory(state, raw, 0, 0))
        else:
            text, used = compiled.as_text(), compiled.memory_analysis()
            fresh = max(0, used.output_size_in_bytes - used.alias_size_in_bytes)
            total = used.argument_size_in_bytes + used.temp_size_in_bytes + fresh
            memory = _memory(state, raw, used.argument_size_in_bytes, total)
    seconds = time.perf_counter() - begun
    count = operations(traced.jaxpr.jaxpr)
    return CompiledStep(memory, count, _shares(mesh, state), seconds, text, capacity)


def _shares(mesh: Mesh, state: State) -> int:
    """Among how many a mesh divides the work: the axis "model" only where it divides parameters.

    Else all devices along it do the same.
    """
    if any("model" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params)):
        return mesh.size
    return mesh.size // mesh.shape.get("model", 1)


@contextmanager
def uncached() -> Iterator[None]:
    """Compiles without the compilation cache: JAX cannot read an entry back without a TPU."""
    with jax_setting(CACHED_FROM, float("inf")), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
        yield


def _raw_shapes(run: Run, mesh: Mesh) -> Any:
    """What the data loader gives to a step, as shapes on the mesh: see `ShardedLoader.read`."""
    rows = batch_sharding(mesh, run.train.batch_size)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = rows if isinstance(leaf, np.ndarray) else replicated(mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, next(run.train.read(0)))


def _memory(state: State, raw: Any, arguments: int, total: int) -> Memory:
    """The parts; what the compiler takes for arguments beyond their own bytes counts as data."""
    params, opt_state = bytes_on_a_chip(state.params), bytes_on_a_chip(state.opt_state)
    other = bytes_on_a_chip(state) - params - opt_state
    data = max(bytes_on_a_chip(raw), arguments - params - opt_state - other)
    temporaries = max(0, total - params - opt_state - other - data)
    return Memory(params, opt_state, other, data, temporaries)


def bytes_on_a_chip(tree: Any) -> int:
    """The bytes of arrays, or of their shapes with shardings, on one of their devices."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total += 8 * int(np.prod(shape))
        else:
            total += leaf.dtype.itemsize * int(np.prod(shape))
    return total


def _overflow(error: Exception, arguments: Memory) -> tuple[Memory, int]:
    """The memory that a step would need and that of a chip, from the compiler's refusal."""
    total, temporaries = TOTAL.search(str(error)), TEMPORARIES.search(str(error))
    if not (found := total or temporaries):
        raise error
    needed, capacity = (
        int(float(number) * UNITS[unit])
        for number, unit in (found.groups()[:2], found.groups()[2:])
    )
    needed = max(0, needed - arguments.total) if total else needed
    return replace(arguments, temporaries=needed), capacity
