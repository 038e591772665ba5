"""Normalizing flows: log-likelihoods of vectors and, by dequantization, of discrete pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.objectives import model_call
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Metrics, Variables

MARGIN = 0.05  # alpha of the RealNVP paper: keeps the logit of the smallest and largest x finite


def normalizing_flow(model: Any, levels: int | None = None) -> NormalizingFlow:
    """Normalizing flow (Rezende and Mohamed, 2015): an invertible model from data x to noise z.

    The model maps x (B, ...) to z of the same shape, normally distributed, and the log-determinant
    (B,), and has a method `inverse` from z to x, like `RealNVP`. The loss is the exact negative
    log-likelihood of a row, in nats: log p(x) = log N(z; 0, 1) + log |det dz/dx|. Metric: nll, the
    same. Predictions: log_prob (B,), which is low for rows unlike those of the training: anomaly
    detection by density.

    `levels` is for x with so many values, evenly spaced from 0 to 1, such as pixels of bytes (256):
    a density of discrete values has no bound. Uniform dequantization (Theis et al., 2016) adds
    noise within each level, and the loss is an upper bound of the negative log-likelihood of the
    levels. The model reads their logits, as in RealNVP's paper. More metrics: bits_per_dim, the nll
    in bits per dimension; in evaluation off_levels, the share of elements that are none of the
    levels and are rounded to the nearest: if it is not 0, `levels` is wrong. The noise of training
    is drawn anew at each step; that of evaluation is a function of
    the row. In half precision likelihoods are no longer exact.
    """
    if levels is not None and levels < 2:
        raise Error(f"levels, the number of values of x, must be at least 2, got {levels}.")
    model_call.require_methods("normalizing_flow", model, "__call__", "inverse")
    return NormalizingFlow(model, levels)


@dataclass(frozen=True, eq=False)
class NormalizingFlow(model_call.ModelObjective):
    """A normalizing flow; see `normalizing_flow`."""

    levels: int | None

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean negative log-likelihood of the rows, in nats."""
        x, mask = model_call.column(batch), batch.get("mask")
        noise = _evaluation_noise(x)
        if train:
            noise = sample_rows(jax.random.uniform, stream(key, "dequantization"), x.shape)
        v, log_det = self._to_reals(x, noise)
        (z, of_model), model_state = model_call.apply(
            self.model, variables, (v,), batch, key, train
        )
        nll = Mean.of(-(_normal_log_prob(z) + of_model + log_det), mask)
        metrics: Metrics = {"nll": nll}
        if self.levels:
            nats_per_bit = math.prod(x.shape[1:]) * math.log(2)
            metrics["bits_per_dim"] = Mean(nll.total, nll.count * nats_per_bit)
        if self.levels and not train:
            metrics["off_levels"] = Mean.of(self._off_levels(x), mask)
        return LossOutput(nll, metrics, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The log-likelihoods (B,) of the rows, in nats."""
        v, log_det = self._to_reals(
            model_call.column(batch), _evaluation_noise(model_call.column(batch))
        )
        z, of_model = model_call.evaluate(self.model, variables, batch, (v,))
        return {"log_prob": _normal_log_prob(z) + of_model + log_det}

    def encode(self, variables: Variables, batch: Batch) -> Array:
        """The latents z (B, ...) of the rows."""
        v, _ = self._to_reals(model_call.column(batch), _evaluation_noise(model_call.column(batch)))
        return model_call.evaluate(self.model, variables, batch, (v,))[0]

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Rows (B, ...) from latents z (B, ...): the inverse of the model."""
        v = model_call.evaluate(self.model, variables, batch, (z,), "inverse")
        if not self.levels:
            return v
        unit = (jax.nn.sigmoid(v) - MARGIN) / (1 - 2 * MARGIN)
        level = jnp.floor(unit * self.levels).clip(0, self.levels - 1)
        return level / (self.levels - 1)

    def sample_latent(self, key: Key, batch: Batch) -> Array:
        """Standard normal noise (B, ...) of the shape of x."""
        return sample_rows(jax.random.normal, key, model_call.column(batch).shape)

    def _to_reals(self, x: Array, noise: Array) -> tuple[Array, Array]:
        """What the model reads, any real numbers (B, ...), and the log-determinant (B,) from x.

        With `levels` these are the logits of dequantized x, and the volume of a level is 1, so that
        its log-likelihood is that of a discrete value.
        """
        if not self.levels:
            return x, jnp.zeros(x.shape[0])
        level = (x * (self.levels - 1)).round().clip(0, self.levels - 1)
        p = MARGIN + (1 - 2 * MARGIN) * (level + noise) / self.levels
        log_p, log_q = jnp.log(p), jnp.log1p(-p)
        log_slope = math.log((1 - 2 * MARGIN) / self.levels) - log_p - log_q
        return log_p - log_q, log_slope.reshape(x.shape[0], -1).sum(-1)

    def _off_levels(self, x: Array) -> Array:
        """1 for each element that is none of the levels, else 0."""
        scaled = x * ((self.levels or 2) - 1)
        return (jnp.abs(scaled - scaled.round()) > 1e-3).astype(jnp.float32)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model does not give z and a log-determinant, or x does not fit."""
        x = model_call.column(spec)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise Error(f"normalizing_flow needs x of floats, and x is {x.dtype}: convert it.")
        shapes = jax.tree.map(lambda out: out.shape, model_call.output_spec(self.model, spec))
        if shapes != (x.shape, x.shape[:1]):
            raise Error(
                f"The model gives {shapes} for x of shape {x.shape}: normalizing_flow needs z of "
                f"the shape of x and the log-determinant of each row, {(x.shape, x.shape[:1])}."
            )
        least, greatest = bounds.get("x", (0, 1)) if self.levels else (0, 1)
        if least < 0 or greatest > 1:
            raise Error(
                f"levels={self.levels} needs x from 0 to 1, but x is from {least} to {greatest}: "
                "scale it, or leave levels out where x is not discrete."
            )


def _evaluation_noise(x: Array) -> Array:
    """The noise of evaluation (B, ...): a function of the row, whatever its place in a batch."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    bits = bits.reshape(bits.shape[0], -1)
    factors = jax.random.bits(jax.random.key(0), (1, bits.shape[1]), jnp.uint32)
    hashes = (bits * factors).sum(1, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), hashes)
    return jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)


def _normal_log_prob(z: Array) -> Array:
    """The log-density (B,) of the standard normal distribution at z (B, ...)."""
    return -0.5 * (jnp.square(z) + math.log(2 * math.pi)).reshape(z.shape[0], -1).sum(-1)
