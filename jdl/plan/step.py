"""A run's training step, compiled ahead of time for a mesh of devices that need not exist."""

from __future__ import annotations

import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jdl.inspect.cost import operations
from jdl.layers.platform import compiled_for
from jdl.learners.compilation import jax_setting
from jdl.objectives.pretrained_model import leave_fresh
from jdl.parallel.mesh import batch_sharding, replicated
from jdl.run import Run
from jdl.train.placement import place_on_mesh
from jdl.types import Error, State

# The compiler for TPUs refuses in two ways: before and after it has laid out the memory. The second
# calls temporaries what is the total, with the arguments.
REFUSAL = re.compile(
    r"(?:[Uu]sed |temporaries \()([\d.]+)([KMGT]?)"
    r"(?: of |\) exceeds available HBM \()([\d.]+)([KMGT]?)"
)
MEMORY_REPORT = "*memory-usage-report.txt"  # what the compiler for TPUs writes of each program
TOTAL = re.compile(r"Memory Space: default.*\nTotal bytes: (\d+)")
CACHED_FROM = "jax_persistent_cache_min_compile_time_secs"  # JAX's settings
LEVEL = "jax_optimization_level"
# Without a GPU to try them on, XLA takes tile sizes for small products that its Triton code cannot
# have: so products are cuBLAS's.
WITHOUT_GPU = {"xla_gpu_enable_triton_gemm": False}
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
    temporaries: int  # activations, gradients, gathered parameters, workspace, and the program

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
    platform: str  # whose compiler it was: "tpu", "gpu" or "cpu"


def compile_step(run: Run, mesh: Mesh, quick: bool = False) -> CompiledStep:
    """Compiles the step as `fit` does, without a device, and without a number of the state.

    `run` has its config applied. With `quick` the compiler takes less care of the step's time.
    Raises `Error` for an elastic run, whose step consists of several programs, and where the batch
    cannot be divided.
    """
    if run.config.elastic:
        raise Error(
            "The step of an elastic run consists of several programs: plan the same run with "
            "--elastic 0."
        )
    placement = place_on_mesh(run, mesh)
    platform = mesh.devices.flat[0].platform
    level = jax_setting(LEVEL, "O0" if quick else getattr(jax.config, LEVEL))
    # Memory does not depend on pretrained weights.
    with leave_fresh(), compiled_for(platform), level:
        key = jax.eval_shape(jax.random.key, 0)
        state = placement.abstract(jax.eval_shape(run.learner.init, key, run.train.spec))
        raw = _raw_shapes(run, mesh)
        begun = time.perf_counter()
        traced = _trace(placement.learner, state, raw)
        lowered, text, capacity = traced.lower(), "", None
        try:
            compiled, allocated = _compile(lowered, platform)
        except jax.errors.JaxRuntimeError as error:
            needed, capacity = _refusal(error)
            memory = _memory(state, raw, 0, needed)
        else:
            text, used = compiled.as_text(), compiled.memory_analysis()
            fresh = max(0, used.output_size_in_bytes - used.alias_size_in_bytes)
            together = used.argument_size_in_bytes + used.temp_size_in_bytes + fresh
            total = together if allocated is None else allocated
            total += used.generated_code_size_in_bytes
            memory = _memory(state, raw, used.argument_size_in_bytes, total)
    seconds = time.perf_counter() - begun
    count = operations(traced.jaxpr.jaxpr)
    return CompiledStep(memory, count, _shares(mesh, state), seconds, text, capacity, platform)


def _trace(learner: Any, state: State, raw: Any) -> Any:
    """The step, traced."""
    try:
        return learner.step_fn.trace(state, raw)
    except RuntimeError as error:
        if "cuDNN not found" not in str(error):
            raise
        raise Error(
            "Attention in half precision is cuDNN's on GPUs, and to compile it takes cuDNN, which "
            "needs no GPU: pip install 'jdl[gpu]', or beside JAX's plugin nvidia-cudnn-cu13."
        ) from error


def _shares(mesh: Mesh, state: State) -> int:
    """Among how many a mesh divides the work: the axis "model" only where it divides parameters.

    Else all devices along it do the same.
    """
    if any("model" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params)):
        return mesh.size
    return mesh.size // mesh.shape.get("model", 1)


@contextmanager
def uncached() -> Iterator[None]:
    """Compiles without the compilation cache: JAX cannot read an entry back without the device."""
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


def _compile(lowered: Any, platform: str) -> tuple[Any, int | None]:
    """The compiled program, and the bytes that a TPU must have for it, arguments included.

    `memory_analysis` has a larger number of temporaries (5.6 GB for 3.5): by it a program that the
    compiler takes would not fit. The one with which it compares the chip's memory is in a report
    that it writes. None where there is none.
    """
    if platform == "cpu":
        return lowered.compile(), None
    if platform == "gpu":
        with uncached():
            return lowered.compile(WITHOUT_GPU), None
    with uncached(), tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True, "xla_dump_hlo_module_re": ".*"}
        compiled = lowered.compile(dump)
        reports = [TOTAL.search(path.read_text()) for path in Path(folder).glob(MEMORY_REPORT)]
    totals = [int(found[1]) for found in reports if found]
    if not totals:
        warnings.warn(
            "This libtpu writes no report of the memory: the temporaries are an upper bound.",
            stacklevel=2,
        )
    return compiled, max(totals, default=None)


def _refusal(error: Exception) -> tuple[int, int]:
    """The bytes that a step would need, arguments included, and those of a chip."""
    if not (found := REFUSAL.search(str(error))):
        raise error
    numbers = (found.groups()[:2], found.groups()[2:])
    needed, capacity = (int(float(number) * UNITS[unit]) for number, unit in numbers)
    return needed, capacity
