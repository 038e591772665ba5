"""Placement of a run on devices: config applied, data sharded, learner compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jax.sharding import Mesh

from jdl.config import Options
from jdl.learners import (
    SeveralSteps,
    jit_learner,
    mixed_precision,
    several_steps,
    skip_nonfinite,
    with_data,
)
from jdl.parallel import (
    abstract_state,
    build_mesh,
    check_batch_size,
    data_parallel_devices,
    elastic,
    parameter_rules,
    pmap_learner,
    pmap_mesh,
    shard_data,
    shard_learner,
)
from jdl.parallel.processes import connect
from jdl.run import Run
from jdl.types import Error, Learner, Loader, State


def apply_config(run: Run) -> Run:
    """The run with its learner in the config's precision, skipping non-finite steps if set."""
    learner = mixed_precision(run.learner, run.config.precision)
    if run.config.on_nonfinite == "skip":
        learner = skip_nonfinite(learner)
    return replace(run, learner=learner)


@dataclass(frozen=True)
class Placement:
    """A run on its devices."""

    learner: Learner  # compiled: its step takes what `run.train.read` yields
    run: Run  # with its data on the devices
    abstract: Callable[[State], State]  # adds the shardings on the devices to a state's shapes
    several: SeveralSteps | None = None  # with --steps-per-call


def place_on_devices(run: Run, options: Options) -> Placement:
    """Compiles the run's learner, and shards its data, for the devices that the options name."""
    mesh, shards = build_mesh(options.mesh, options.devices), run.config.elastic
    connect(mesh)
    pmap, most = options.parallel == "pmap", options.steps_per_call
    if most > 1 and (shards or pmap):
        other = "--elastic" if shards else "--parallel pmap"
        raise Error(f"--steps-per-call and {other} cannot be combined: drop one of the two.")
    if shards and pmap:
        raise Error("--elastic and --parallel pmap cannot be combined: drop one of the two.")
    if shards:
        devices = data_parallel_devices(mesh, "--elastic")
        return Placement(elastic(run.learner, run.train, shards, devices), run, _same)
    if pmap:
        mesh = pmap_mesh(data_parallel_devices(mesh, "--parallel pmap"))
    if mesh is None:
        learner = with_data(run.learner, run.train)
        return Placement(jit_learner(learner), run, _same, _several(learner, most))
    if pmap:
        check_batch_size(mesh, run.train.batch_size)
        run = _shard_splits(run, mesh)
        return Placement(
            pmap_learner(run.learner, run.train, mesh), run, partial(abstract_state, mesh)
        )
    return place_on_mesh(run, mesh, most)


def place_on_mesh(run: Run, mesh: Mesh, steps_per_call: int = 1) -> Placement:
    """Compiles the run's learner, and shards its data, for a mesh; its devices may be described."""
    check_batch_size(mesh, run.train.batch_size)
    rules = parameter_rules(run.learner, run.train.spec, mesh)
    run = _shard_splits(run, mesh)
    learner = shard_learner(with_data(run.learner, run.train), mesh, rules)
    compiled, calls = (
        jit_learner(learner, one_device=False),
        _several(learner, steps_per_call, False),
    )
    return Placement(compiled, run, partial(abstract_state, mesh, rules=rules), calls)


def _several(learner: Learner, most: int, one_device: bool = True) -> SeveralSteps | None:
    return several_steps(learner, most, one_device) if most > 1 else None


def _shard_splits(run: Run, mesh: Mesh) -> Run:
    sharded: dict[str, Any] = {name: shard_data(data, mesh) for name, data in splits(run).items()}
    return replace(run, **sharded)


def splits(run: Run) -> dict[str, Loader]:
    """The run's data loaders by split: train, and valid and test where it has them."""
    loaders = {"train": run.train, "valid": run.valid, "test": run.test}
    return {name: loader for name, loader in loaders.items() if loader is not None}


def _same(state: State) -> State:
    return state
