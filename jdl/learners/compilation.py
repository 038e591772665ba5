"""Learner wrappers of `fit`: batches made within the step, and `jax.jit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax

from jdl.learners.shared_programs import jit
from jdl.learners.wrapper import Wrapper
from jdl.objectives.axis_names import records_axis_names
from jdl.objectives.pretrained_model import load_from, loaded_so_far
from jdl.types import Batch, Key, Learner, Loader, Metrics, State

THREEFRY_KERNEL = "jax_threefry_gpu_kernel_lowering"  # JAX's setting


@dataclass(frozen=True, eq=False)
class WithData(Wrapper):
    """A learner whose step makes the batch from a loader's raw data; see `with_data`."""

    data: Loader

    def step(self, state: State, raw: Any) -> tuple[State, Metrics]:
        """One step on batch number `state.step`."""
        with jax.named_scope("batch"):
            batch = self.data.batch(raw, state.step)
        return self.learner.step(state, batch)


def with_data(learner: Learner, data: Loader) -> WithData:
    """The learner with a step that takes what `data.read` yields, and makes the batch itself."""
    return WithData(learner, data)


@dataclass(frozen=True, eq=False)
class CompiledLearner(Wrapper):
    """A learner whose `init` and `step` are given; see `jit_learner` and `trace_once`."""

    init_fn: Callable[[Key, Batch], State]
    step_fn: Callable[[State, Any], tuple[State, Metrics]]

    def init(self, key: Key, batch: Batch) -> State:
        """The initial state."""
        return self.init_fn(key, batch)

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One step."""
        return self.step_fn(state, batch)


def trace_once(learner: Learner) -> CompiledLearner:
    """The learner with `init` and `step` traced once, though a check and a program need them.

    `check_run` traces them by `jax.eval_shape`; what is compiled afterwards has the same trace, in
    its own jaxpr (`inline=True`). Only `init` may be traced again: of pretrained models, with their
    weights as arguments (`jit_init`), and for the names of parameters' axes (`parameter_rules`).
    """
    # A lambda, because JAX keeps traces by function: each run traces, and so records, by itself.
    traced = jax.jit(lambda key, batch: learner.init(key, batch), inline=True)

    def init(key: Key, batch: Batch) -> State:
        again = loaded_so_far() or records_axis_names()
        return learner.init(key, batch) if again else traced(key, batch)

    return CompiledLearner(learner, init, jax.jit(learner.step, inline=True))


def jit_init(
    init: Callable[[Key, Batch], State], one_device: bool = True
) -> Callable[[Key, Batch], State]:
    """`init` compiled by `jax.jit`, with the weights of pretrained models as its arguments.

    As constants they would be written into the program: slow to compile, and 2 GB at most. They are
    what `record_loaded` has recorded before the first call.
    """

    def init_with(arrays: list[Any], key: Key, batch: Batch) -> State:
        if not arrays:
            return init(key, batch)
        with load_from(dict(zip(loaded_so_far(), arrays, strict=True))):
            return init(key, batch)

    compiled = (jit if one_device else jax.jit)(init_with)

    def call(key: Key, batch: Batch) -> State:
        arrays = [loaded.arrays for loaded in loaded_so_far().values()]
        with threefry_kernel() if one_device else nullcontext():
            return compiled(arrays, key, batch)

    return call


@contextmanager
def threefry_kernel() -> Iterator[None]:
    """Random numbers by JAX's own CUDA kernel: the same bits, and programs that compile sooner.

    Else XLA compiles the generator into the program again for each parameter: the initial state of
    a GPT with 124 million parameters took 39 s to compile on an H200, and with the kernel 5 s. The
    kernel needs memory for the random bits, and over a mesh the whole array's on each device.
    """
    if jax.default_backend() != "gpu":
        yield
        return
    with jax_setting(THREEFRY_KERNEL, True):
        yield


@contextmanager
def jax_setting(name: str, value: Any) -> Iterator[None]:
    """A setting of JAX (`jax.config`) has another value within it."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def jit_learner(learner: Learner, one_device: bool = True) -> CompiledLearner:
    """The learner with `init` and `step` compiled by `jax.jit`; the old state is donated."""
    init, compiled = jit_init(learner.init, one_device), jit if one_device else jax.jit
    return CompiledLearner(learner, init, compiled(learner.step, donate_argnums=(0,)))
