"""Diffusion models and flow matching, sampled by DDIM or DDPM."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.objectives import model_call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Objective,
    Variables,
)

MAX_TIME = 0.999  # at time 1 of the cosine schedule x_t is pure noise, from which no x follows


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise schedule of a diffusion model or of flow matching.

    x_t = alpha(t) x + sigma(t) noise. Time t runs from 0, the data, to 1, the noise. The rates are
    the derivatives of alpha and sigma by time, in a unit of time such that alpha * sigma_rate -
    sigma * alpha_rate is 1. The velocity of x_t is alpha_rate(t) x + sigma_rate(t) noise.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    alpha_rate: Callable[[Array], Array]
    sigma_rate: Callable[[Array], Array]


cosine_schedule = NoiseSchedule(
    alpha=lambda t: jnp.cos(t * math.pi / 2),
    sigma=lambda t: jnp.sin(t * math.pi / 2),
    alpha_rate=lambda t: -jnp.sin(t * math.pi / 2),
    sigma_rate=lambda t: jnp.cos(t * math.pi / 2),
)
"""The cosine noise schedule, variance-preserving (Nichol and Dhariwal, 2021).

Its velocity is the v of v-prediction (Salimans and Ho, 2022).
"""

rectified_flow = NoiseSchedule(
    alpha=lambda t: 1 - t,
    sigma=lambda t: t,
    alpha_rate=lambda t: -jnp.ones_like(t),
    sigma_rate=lambda t: jnp.ones_like(t),
)
"""The schedule of flow matching (Lipman et al., 2023) or rectified flow (Liu et al., 2023).

Its paths are straight lines from data to noise. The model's t is 0 for data and 1 for noise, as in
every `NoiseSchedule`: the reverse of both papers, whose t = 1 is data.
"""


def diffusion(
    model: Any,
    schedule: NoiseSchedule = cosine_schedule,
    prediction: Literal["noise", "velocity"] = "velocity",
    classes: int = 0,
    label_dropout: float = 0.1,
    guidance_scale: float = 1.0,
    sampling_steps: int = 50,
    eta: float = 0.0,
    clip: bool = True,
) -> Diffusion:
    """Diffusion model (Ho et al., 2020) or flow matching, of x (B, ...) with values from 0 to 1.

    The model reads noisy rows (B, ...), x scaled to -1 to 1, and times t (B,) from 0, data, to 1,
    noise: `model(x_t, t)`. It predicts the noise (epsilon-prediction), or the velocity:
    v-prediction with `cosine_schedule` (Salimans and Ho, 2022), flow matching with
    `rectified_flow` (Lipman et al., 2023). The loss is the mean squared error of the prediction at
    a random time for each row; metric: mse.

    With `classes` K the model is class-conditional, `model(x_t, t, y)`: in training a share
    `label_dropout` of the labels is replaced by K, which means no label, and sampling uses
    classifier-free guidance (Ho and Salimans, 2021) with `guidance_scale`, where 1 is none. Another
    scale needs `classes` and a `label_dropout` above 0.

    `decode` samples in `sampling_steps` steps: at `eta` 0 without fresh noise, by DDIM (Song et
    al., 2021), which on `rectified_flow` and without `clip` is Euler's method; at 1 with fresh
    noise in each step, by DDPM (Ho et al., 2020). With `clip` (diffusers' clip_sample) each step's
    estimate of the data is clipped to -1 to 1.
    """
    if prediction not in ("noise", "velocity"):
        raise Error(f'prediction must be "noise" or "velocity", got {prediction!r}.')
    numbers = f"{sampling_steps=}, {classes=}, {eta=}, {label_dropout=}"
    if sampling_steps < 1 or classes < 0 or not 0 <= eta <= 1 or not 0 <= label_dropout < 1:
        raise Error(
            "sampling_steps must be at least 1, classes at least 0, eta from 0 to 1, and "
            f"label_dropout from 0 to below 1; got {numbers}."
        )
    made = Diffusion(
        model, schedule, prediction, classes, label_dropout, 1.0, sampling_steps, eta, clip
    )
    return made.guided(guidance_scale)


@dataclass(frozen=True, eq=False)
class Diffusion(Objective):
    """A diffusion model; see `diffusion`."""

    model: Any
    schedule: NoiseSchedule
    prediction: Literal["noise", "velocity"]
    classes: int
    label_dropout: float
    guidance_scale: float
    sampling_steps: int
    eta: float
    clip: bool

    def guided(self, guidance_scale: float) -> Diffusion:
        """The same model, sampled by classifier-free guidance of this scale, where 1 is none.

        Raises `Error` if the model has not learnt what guidance needs.
        """
        if guidance_scale != 1 and not (self.classes and self.label_dropout):
            raise Error(
                f"guidance_scale={guidance_scale} needs a model that learns with and without "
                f"labels, but classes={self.classes} and label_dropout={self.label_dropout}: give "
                "classes and a label_dropout such as 0.1, or leave out guidance_scale."
            )
        return replace(self, guidance_scale=guidance_scale)

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        return model_call.init(self.model, key, batch, *self._inputs_at_time_0(batch))

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean squared error of the prediction, at a random time for each row."""
        x, y = 2 * model_call.column(batch) - 1, self._labels(batch)
        t = MAX_TIME * sample_rows(jax.random.uniform, stream(key, "time"), (len(x),))
        noise = sample_rows(jax.random.normal, stream(key, "noise"), x.shape)
        if y is not None and train:
            uniform = sample_rows(jax.random.uniform, stream(key, "label_dropout"), (len(x),))
            y = jnp.where(uniform < self.label_dropout, self.classes, y)
        schedule, t_rows = self.schedule, t.reshape(-1, *(1,) * (x.ndim - 1))
        x_t = schedule.alpha(t_rows) * x + schedule.sigma(t_rows) * noise
        inputs = _inputs(x_t, t, y)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        target = noise
        if self.prediction == "velocity":
            target = schedule.alpha_rate(t_rows) * x + schedule.sigma_rate(t_rows) * noise
        error = Mean.of(optax.squared_error(out, target), batch.get("mask"))
        return LossOutput(error, {"mse": error}, model_state)

    def sample_latent(self, key: Key, batch: Batch) -> Array:
        """Standard normal noise (B, ...) of the shape of x, to start sampling from."""
        return sample_rows(jax.random.normal, key, model_call.column(batch).shape)

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Samples (B, ...) from 0 to 1, from noise z (B, ...), for the batch's labels y."""
        times = jnp.linspace(MAX_TIME, 0, self.sampling_steps + 1)

        def step(x: Array, n: Array) -> tuple[Array, None]:
            data, noise = self._denoise(variables, x, times[n], batch)
            fresh = jnp.zeros_like(x)
            if self.eta:
                fresh = jax.random.normal(jax.random.fold_in(key, n), x.shape)
            return self._sampling_step(data, noise, fresh, times[n], times[n + 1]), None

        x, _ = jax.lax.scan(step, z, jnp.arange(self.sampling_steps))
        return ((x + 1) / 2).clip(0, 1)

    def _denoise(
        self, variables: Variables, x_t: Array, t: Array, batch: Batch
    ) -> tuple[Array, Array]:
        """The model's estimates of the data and the noise in x_t, with classifier-free guidance."""

        def predict(y: Array | None) -> Array:
            inputs = _inputs(x_t, jnp.broadcast_to(t, x_t.shape[:1]), y)
            return model_call.evaluate(self.model, variables, batch, inputs)

        y, scale = self._labels(batch), self.guidance_scale
        out = predict(y)
        if y is not None and scale != 1:
            unconditional = predict(jnp.full_like(y, self.classes))
            out = unconditional + scale * (out - unconditional)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        if self.prediction == "noise":
            data = (x_t - sigma * out) / alpha
        else:
            data = self.schedule.sigma_rate(t) * x_t - sigma * out
        if self.clip:
            data = data.clip(-1, 1)
        return data, (x_t - alpha * data) / sigma

    def _sampling_step(self, data: Array, noise: Array, fresh: Array, t: Array, s: Array) -> Array:
        """A sampling step (DDIM; Song et al., 2021): x_s from the data and noise in x_t, s < t.

        `fresh` noise replaces a part of the noise: none at eta 0, as much as in DDPM at eta 1.
        """
        alpha, sigma = self.schedule.alpha, self.schedule.sigma
        variance = jnp.square(sigma(t)) - jnp.square(alpha(t) / alpha(s) * sigma(s))
        fresh_std = self.eta * jnp.sqrt(variance.clip(0)) * sigma(s) / sigma(t)
        noise_std = jnp.sqrt((jnp.square(sigma(s)) - jnp.square(fresh_std)).clip(0))
        return alpha(s) * data + noise_std * noise + fresh_std * fresh

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the output does not have the shape of x, or x or y is out of range."""
        x = model_call.column(spec).shape
        out = model_call.output_shape(self.model, spec, self._inputs_at_time_0)
        if out != x:
            raise Error(f"The model gives {out} for x of shape {x}: it must give the shape of x.")
        least, greatest = bounds.get("x", (0, 1))
        if least < 0 or greatest > 1:
            raise Error(
                f"diffusion needs x from 0 to 1, but x is from {least} to {greatest}: scale it."
            )
        least, greatest = bounds.get("y", (0, 0)) if self.classes else (0, 0)
        if least < 0 or greatest >= max(self.classes, 1):
            raise Error(
                f"The labels y are from {least} to {greatest}, but {self.classes} classes are 0 to "
                f"{self.classes - 1}: correct the labels, or classes."
            )

    def _labels(self, batch: Batch) -> Array | None:
        return model_call.column(batch, "y") if self.classes else None

    def _inputs_at_time_0(self, batch: Batch) -> tuple[Array, ...]:
        x = model_call.column(batch)
        return _inputs(x, jnp.zeros(len(x)), self._labels(batch))


def _inputs(x_t: Array, t: Array, y: Array | None) -> tuple[Array, ...]:
    """What the model reads: noisy rows, times, and the labels of a class-conditional model."""
    return (x_t, t) if y is None else (x_t, t, y)
