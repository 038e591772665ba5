"""The loss on a straight line between two sets of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.explain.canvas import save
from jdl.explain.subject import Subject
from jdl.inspect.restore import TrainedRun
from jdl.keys import stream
from jdl.objectives.pretrained_model import record_loaded
from jdl.run import Run
from jdl.types import Array, Batch, Error, Objective, Variables

POINTS = 21
ROWS = 2_000  # of each split, or one batch


def loss_line(
    objective: Objective,
    start: Variables,
    end: Variables,
    batches: Sequence[Batch],
    points: int = POINTS,
) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation of parameters (Goodfellow et al., 2015): the loss between two of them.

    The shares (points,) of the way from `start` to `end`, and the losses (points,) there, of all
    batches in evaluation. All floats are interpolated, BatchNorm's statistics too. Raises `Error`
    where the variables have other shapes.
    """
    shapes = [jax.tree.map(jnp.shape, variables) for variables in (start, end)]
    if shapes[0] != shapes[1]:
        raise Error("The two runs have models of other shapes: no line joins their parameters.")

    def between(share: Array, a: Array, b: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return b
        return a + share.astype(a.dtype) * (b - a)

    @jax.jit
    def at(share: Array, start: Variables, end: Variables, batch: Batch) -> tuple[Array, Array]:
        variables = jax.tree.map(lambda a, b: between(share, a, b), start, end)
        key = stream(jax.random.key(0), "loss_line")
        loss = objective.loss(variables, batch, key, False).loss
        return loss.total, loss.count

    shares = np.linspace(0, 1, points, dtype=np.float32)
    sums = [[np.asarray(at(share, start, end, batch)) for batch in batches] for share in shares]
    totals = np.asarray(sums, np.float64).sum(1)
    return shares, totals[:, 0] / totals[:, 1]


def barrier(shares: np.ndarray, losses: np.ndarray) -> float:
    """Loss barrier (Frankle et al., 2020): how far the loss rises above the line of its two ends.

    0 where it does not: the two are linearly connected.
    """
    return float((losses - (losses[0] + shares * (losses[-1] - losses[0]))).max())


def beginning(run: Run) -> tuple[str, Variables]:
    """What a run began with, in words, and the variables: with its pretrained weights, if any."""
    with record_loaded() as loaded:
        try:
            state = jax.jit(run.learner.init)(jax.random.key(run.config.seed), run.train[0])
        except Error as error:
            raise Error(
                f"The run cannot begin again as it did: {error} --other RUN draws the line to "
                "another run."
            ) from error
    sources = ", ".join(dict.fromkeys(one.source for one in loaded.values()))
    first = f"the pretrained weights ({sources})" if sources else "the initial parameters"
    return first, TrainedRun(run, state).variables


def log_scale(axes: Any) -> None:
    """Makes the vertical axis logarithmic: powers of 10 have labels, or all ticks if it has one."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    powers = sum(low <= tick <= high for tick in axes.yaxis.get_majorticklocs())
    axes.yaxis.set_minor_formatter("" if powers > 1 else "{x:g}")


def draw_loss_line(subject: Subject, path: Path) -> str:
    """Draws the loss from the initial parameters, or those of another run, to the final ones."""
    trained, other = subject.trained, subject.other
    run = trained.run
    first, start = ("the other run", other.variables) if other else beginning(run)
    count = max(1, min(len(run.train), ROWS // run.train.batch_size))
    splits = {
        "train": [run.train[i] for i in range(count)],
        subject.split: subject.batches(subject.sample(ROWS)),
    }
    lines = {
        name: loss_line(trained.objective, start, trained.variables, batches)
        for name, batches in splits.items()
    }
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, (shares, losses)), color in zip(lines.items(), ("#9ab", "#00796b"), strict=True):
        axes.plot(shares, losses, "o-", label=name, color=color, markersize=3)
    axes.set(xlabel=f"from {first} (0) to the trained ones (1)", ylabel="loss")
    if min(losses.min() for _, losses in lines.values()) > 0:
        log_scale(axes)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    rises = ", ".join(f"{barrier(*line):.4g} ({name})" for name, line in lines.items())
    return (
        f"The loss on the straight line from {first} to the trained ones, on up to {ROWS:,} rows "
        f"of each split. Above the line between its two ends it rises by {rises}: the barrier."
    )
