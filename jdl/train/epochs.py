"""Epochs, as the number of steps of a run: passes over its training data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from jdl.config import Config
from jdl.run import Run
from jdl.types import Error, Loader

C = TypeVar("C", bound=Config)


def epochs_to_steps(run: Callable[[C], Run], c: C) -> C:
    """The config with the steps that its epochs are; the same config if it has no epochs.

    `run(c)` is called to learn the number of batches in an epoch. `jdl.main` and `jdl train` do
    this themselves; before `jdl.fit` it is `c = jdl.epochs_to_steps(run, c)`.
    """
    if not c.epochs:
        return c
    return replace(c, steps=steps_of(c.epochs, run(c).train))


def resolve_epochs(run: Callable[[C], Run], c: C, argv: list[str]) -> C:
    """`epochs_to_steps` for a command line; `Error` where its --steps are another number."""
    resolved = epochs_to_steps(run, c)
    given = any(word.partition("=")[0] == "--steps" for word in argv)
    if given and resolved.steps != c.steps:
        raise Error(
            f"--epochs {c.epochs:g} is {resolved.steps:,} steps of this data, but --steps is "
            f"{c.steps:,}: give one of the two."
        )
    return resolved


def steps_of(epochs: float, data: Loader) -> int:
    """The number of steps of these epochs, rounded, at least 1."""
    if not has_epochs(data):
        raise Error(
            "--epochs means passes over a dataset, but the rows of this run come from an "
            "environment, without end: give --steps."
        )
    return max(1, round(epochs * len(data)))


def check_epochs(run: Run) -> None:
    """Raises `Error` where a run's config has epochs that are not its steps."""
    c: Any = run.config
    if c.epochs and (steps := steps_of(c.epochs, run.train)) != c.steps:
        raise Error(
            f"The config has epochs={c.epochs:g}, which are {steps:,} steps of this data, and "
            f"steps={c.steps:,}: call c = jdl.epochs_to_steps(run, c) before jdl.fit(run(c)), so "
            "that schedules that use c.steps get them too."
        )


def in_epochs(steps: int, data: Loader) -> str:
    """The epochs that these steps are, in words and in brackets; empty without a dataset."""
    if not has_epochs(data):
        return ""
    step = "step" if len(data) == 1 else "steps"
    return f" ({steps / len(data):,.4g} epochs of {len(data):,} {step})"


def has_epochs(data: Loader) -> bool:
    """Whether the loader passes over a dataset; the rows of `jdl.data.episodes` are no data."""
    return set(data.spec) - {"id", "mask"} != {"episode"}
