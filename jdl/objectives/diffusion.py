"""Diffusion and flow matching: a model that takes noise away, trained at all amounts of it and sampled step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.objectives import model_call as call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Maker,
    Mean,
    Objective,
    LossOutput,
    Variables,
)

LAST = 0.999  # the greatest time: at 1 a cosine path has no data left that noise could be told from


@dataclass(frozen=True)
class Path:
    """From data, at time 0, to noise, at time 1: x_t = share(t) x + spread(t) noise, and the two's derivatives.

    Derivatives are in a unit of time of one's own choice, such that share * spread' - spread * share' is 1.
    """

    share: Callable[[Array], Array]
    spread: Callable[[Array], Array]
    share_rate: Callable[[Array], Array]
    spread_rate: Callable[[Array], Array]


cosine = Path(
    lambda t: jnp.cos(t * math.pi / 2),
    lambda t: jnp.sin(t * math.pi / 2),
    lambda t: -jnp.sin(t * math.pi / 2),
    lambda t: jnp.cos(t * math.pi / 2),
)
"""A quarter of a circle: the variance stays (Nichol and Dhariwal, 2021). Its velocity is v (Salimans and Ho, 2022)."""

rectified_flow = Path(
    lambda t: 1 - t, lambda t: t, lambda t: -jnp.ones_like(t), lambda t: jnp.ones_like(t)
)
"""A straight line: with `predicts="velocity"` this is flow matching (Lipman et al., 2023; Liu et al., 2023)."""


def diffuse(
    model: Any,
    path: Path = cosine,
    predicts: Literal["noise", "velocity"] = "velocity",
    classes: int = 0,
    unlabelled: float = 0.1,
    guidance: float = 1.0,
    steps: int = 50,
    eta: float = 0.0,
) -> Objective:
    """Rows like x (B, ...) from 0 to 1, by the mean squared error of what the model says of the noise in them.

    `model(x_t, t)` reads rows from -1 to 1 with noise (B, ...), and times (B,) from 0 to 1, and `predicts` the noise
    (Ho et al., 2020), or the velocity along the path. With `classes` K it reads labels besides, `model(x_t, t, y)`, of
    which in training a share `unlabelled` is K, for none; samples lean to their class by `guidance` above 1 (Ho and
    Salimans, 2021). Samples are made in so many `steps`: of the noise they begin with alone, at `eta` 0 (DDIM; Song et
    al., 2021, and Euler's steps on a straight path), or with fresh noise at each, at 1 (DDPM; Ho et al., 2020).
    Metric: mse, that of what is predicted.
    """
    if predicts not in ("noise", "velocity"):
        raise Error(f'predicts is "noise" or "velocity", and {predicts!r} is neither.')
    if steps < 1 or not 0 <= eta <= 1 or not 0 <= unlabelled < 1 or classes < 0:
        raise Error(
            "steps and classes are whole numbers, steps above 0; eta is from 0 to 1, unlabelled from 0 to below 1; "
            f"given were {steps=}, {classes=}, {eta=}, {unlabelled=}."
        )

    def inputs(x: Array, t: Array, y: Array | None) -> tuple[Array, ...]:
        return (x, t) if y is None else (x, t, y)

    def labels(batch: Batch) -> Array | None:
        return call.column(batch, "y") if classes else None

    def init(key: Key, batch: Batch) -> Variables:
        x = call.column(batch)
        return call.init(model, key, *inputs(x, jnp.zeros(len(x)), labels(batch)))

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        x, y = 2 * call.column(batch) - 1, labels(batch)
        t = LAST * sample_rows(jax.random.uniform, stream(key, "time"), (len(x),))
        noise = sample_rows(jax.random.normal, stream(key, "noise"), x.shape)
        if y is not None and train:
            hidden = (
                sample_rows(jax.random.uniform, stream(key, "unlabelled"), (len(x),)) < unlabelled
            )
            y = jnp.where(hidden, classes, y)
        at = _over(t, x)
        seen = path.share(at) * x + path.spread(at) * noise
        said, model_state = call.apply(model, variables, inputs(seen, t, y), batch, key, train)
        target = (
            noise if predicts == "noise" else path.share_rate(at) * x + path.spread_rate(at) * noise
        )
        error = Mean.of(optax.squared_error(said, target), batch.get("mask"))
        return LossOutput(error, {"mse": error}, model_state)

    def parts(variables: Variables, x: Array, t: Array, batch: Batch) -> tuple[Array, Array]:
        """The data and the noise that the model sees in x."""

        def says(y: Array | None) -> Array:
            times = jnp.full(len(x), t)
            return call.apply(
                model, variables, inputs(x, times, y), batch, jax.random.key(0), False
            )[0]

        y = labels(batch)
        said = says(y)
        if y is not None and guidance != 1:
            free = says(jnp.full_like(y, classes))
            said = free + guidance * (said - free)
        share, spread = path.share(t), path.spread(t)
        data = (
            (x - spread * said) / share
            if predicts == "noise"
            else path.spread_rate(t) * x - spread * said
        )
        data = data.clip(-1, 1)
        return data, (x - share * data) / spread

    def make(variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        times = jnp.linspace(LAST, 0, steps + 1)

        def step(x: Array, n: Array) -> tuple[Array, None]:
            t, s = times[n], times[n + 1]
            data, noise = parts(variables, x, t, batch)
            ahead = jnp.square(path.spread(t)) - jnp.square(
                path.share(t) / path.share(s) * path.spread(s)
            )
            fresh = eta * jnp.sqrt(ahead.clip(0)) * path.spread(s) / path.spread(t)
            kept = jnp.sqrt((jnp.square(path.spread(s)) - jnp.square(fresh)).clip(0))
            more = jax.random.normal(jax.random.fold_in(key, n), x.shape)
            return path.share(s) * data + kept * noise + fresh * more, None

        x, _ = jax.lax.scan(step, z, jnp.arange(steps))
        return ((x + 1) / 2).clip(0, 1)

    def noise_of(key: Key, batch: Batch) -> Array:
        return sample_rows(jax.random.normal, key, call.column(batch).shape)

    def check(batch: Batch, bounds: Bounds) -> None:
        x = call.column(batch).shape

        def said(key: Key, batch: Batch) -> Array:
            where = inputs(batch["x"], jnp.zeros(len(batch["x"])), labels(batch))
            return model.apply(init(key, batch), *where)

        made = jax.eval_shape(said, jax.eval_shape(jax.random.key, 0), batch).shape
        if made != x:
            raise Error(
                f"The model says {made} of rows x of {x}: it is to give the shape that it reads."
            )
        least, greatest = bounds.get("x", (0, 1))
        if least < 0 or greatest > 1:
            raise Error(
                f"diffuse reads x from 0 to 1, and it runs from {least} to {greatest}: scale it."
            )
        least, greatest = bounds.get("y", (0, 0)) if classes else (0, 0)
        if least < 0 or greatest >= max(classes, 1):
            raise Error(
                f"The labels y run from {least} to {greatest}, and {classes} classes are 0 to {classes - 1}."
            )

    return Objective(init, loss, check=check, maker=Maker(make, noise=noise_of))


def _over(t: Array, x: Array) -> Array:
    """Times (B,) beside rows (B, ...)."""
    return t.reshape(-1, *(1,) * (x.ndim - 1))
