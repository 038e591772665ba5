"""How a run is laid out: its learner as the config asks, fed and compiled for the devices that the options name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jdl.learners import compile, with_data, mixed_precision, skip_nonfinite
from jdl.parallel import (
    build_mesh,
    check_rows,
    devices_of,
    elastic,
    pmap_mesh,
    pmap,
    sharded,
    sharding,
    shard_data,
)
from jdl.config import Options
from jdl.types import Loader, Error, Learner, Run, State


def apply_config(run: Run) -> Run:
    """The run, whose learner computes in the precision of its config, and leaves out steps where that says so."""
    learner = mixed_precision(run.learner, run.config.precision)
    return replace(
        run, learner=skip_nonfinite(learner) if run.config.on_nonfinite == "skip" else learner
    )


def place_on_devices(run: Run, options: Options) -> tuple[Learner, Run, Callable[[State], State]]:
    """The run's learner, fed and compiled for the devices; the run with its data on them; and how states lie there."""
    mesh, shards, pmap = (
        build_mesh(options.mesh, options.devices),
        run.config.elastic,
        options.parallel == "pmap",
    )
    if shards and pmap:
        raise Error(
            "--elastic computes shard by shard, and not by --parallel pmap: drop one of the two."
        )
    if shards:
        return (
            elastic(run.learner, run.train, shards, devices_of(mesh, "--elastic")),
            run,
            lambda like: like,
        )
    if pmap:
        mesh = pmap_mesh(devices_of(mesh, "--parallel pmap"))
    if mesh is None:
        return compiled(with_data(run.learner, run.train)), run, lambda like: like
    check_rows(mesh, run.train.size)
    on_mesh: dict[str, Any] = {name: shard_data(data, mesh) for name, data in parts(run).items()}
    run = replace(run, **on_mesh)
    loop = (
        pmapped(run.learner, run.train, mesh)
        if pmap
        else compiled(sharded(with_data(run.learner, run.train), mesh))
    )
    return loop, run, partial(placed, mesh)


def parts(run: Run) -> dict[str, Loader]:
    """The data that the run has, by the names of its fields."""
    found = {"train": run.train, "valid": run.valid, "test": run.test}
    return {name: part for name, part in found.items() if part is not None}
