"""Autoencoders: denoising autoencoders, and variational autoencoders (VAEs) by the ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.layers import row_keys, sample_rows
from jdl.objectives import model_call
from jdl.objectives.regression import ElementLoss
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Variables,
)

Augment = Callable[[Key, Batch], Batch]  # (key, columns of one example) -> the same, augmented


def autoencode(
    model: Any,
    noise: float = 0.0,
    augment: Augment | None = None,
    loss: ElementLoss = optax.squared_error,
) -> Autoencoding:
    """Autoencoder: an encoder compresses x (B, ...) to a code, from which a decoder reconstructs x.

    With `noise` or `augment` it is a denoising autoencoder (Vincent et al., 2008): in training the
    model reads a corrupted x and reconstructs the clean one. The corruption is `augment`, a
    transform (key, example) -> example, then Gaussian noise of standard deviation `noise`. The loss
    is the mean of `loss(reconstruction, x)` over rows and elements. The model has the methods
    `encode` and `decode`, like `Autoencoder`. Metric: mse, whatever the loss. Predictions: code,
    and reconstruction_error (B,), the mean squared difference of what `decode` gives from x: high
    for rows unlike those of the training, so that it serves anomaly detection. (With a `loss` of
    logits it says nothing.)
    """
    if noise < 0:
        raise Error(f"noise, a standard deviation, must be at least 0, got {noise}.")
    model_call.require_methods("autoencode", model, "encode", "decode")
    return Autoencoding(model, noise, augment, loss)


@dataclass(frozen=True, eq=False)
class Autoencoding(model_call.ModelObjective):
    """An autoencoder; see `autoencode`."""

    noise: float
    augment: Augment | None
    element_loss: ElementLoss

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean reconstruction loss, of corrupted rows in training."""
        x, mask = model_call.column(batch), batch.get("mask")
        inputs = (self.corrupt(batch, key) if train else x,)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        losses = self.element_loss(out, x)
        scores: Metrics = {"mse": Mean.of(optax.squared_error(out, x), mask)}
        return LossOutput(Mean.of(losses, mask), scores, model_state)

    def corrupt(self, batch: Batch, key: Key) -> Array:
        """The corrupted rows x (B, ...) of training: augmented, and with Gaussian noise."""
        x = model_call.column(batch)
        if self.augment:
            keys = row_keys(stream(key, "augment"), len(x))
            x = jax.vmap(self.augment)(keys, batch)["x"]
        if self.noise:
            x = x + self.noise * sample_rows(jax.random.normal, stream(key, "noise"), x.shape)
        return x

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The codes (B, ...) of the rows, and the errors (B,) of their reconstructions."""
        code = self.encode(variables, batch)
        out = model_call.evaluate(self.model, variables, batch, (code,), "decode")
        error = (
            optax.squared_error(out, model_call.column(batch)).reshape(out.shape[0], -1).mean(-1)
        )
        return {"code": code, "reconstruction_error": error}

    def encode(self, variables: Variables, batch: Batch) -> Array:
        """The codes (B, ...) of the rows."""
        inputs = (model_call.column(batch),)
        return model_call.evaluate(self.model, variables, batch, inputs, "encode")

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Rows (B, ...) from codes z (B, ...)."""
        return model_call.evaluate(self.model, variables, batch, (z,), "decode")

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model's output does not have the shape of x."""
        _check_shape(self.model, spec)


@dataclass(frozen=True)
class Likelihood:
    """The likelihood p(x | z) of a VAE's decoder; the elements of x are independent given z."""

    nll: Callable[[Array, Array], Array]  # (outputs, x) -> negative log-likelihoods, in nats
    mean: Callable[[Array], Array]  # outputs -> means of x
    support: tuple[float, float] | None = None  # the smallest and the largest possible x


bernoulli = Likelihood(optax.sigmoid_binary_cross_entropy, jax.nn.sigmoid, (0.0, 1.0))
"""Bernoulli likelihood: the decoder's outputs are logits, and the loss is the BCE.

An x between 0 and 1 is taken as the probability of a 1: the ELBO is then a lower bound of the mean
log-likelihood of images that are binarized at random.
"""


def gaussian(scale: float = 0.1) -> Likelihood:
    """Gaussian likelihood: the decoder's outputs are means, `scale` the standard deviation."""
    if scale <= 0:
        raise Error(f"scale, a standard deviation, must be above 0, got {scale}.")
    return Likelihood(partial(_gaussian_nll, scale), lambda out: out)


def _gaussian_nll(scale: float, out: Array, x: Array) -> Array:
    return 0.5 * jnp.square((x - out) / scale) + math.log(scale * math.sqrt(2 * math.pi))


def elbo(
    model: Any,
    likelihood: Likelihood = bernoulli,
    beta: float = 1.0,
    importance_samples: int = 0,
) -> VariationalAutoencoding:
    """Variational autoencoder (VAE; Kingma and Welling, 2014) by the ELBO.

    The ELBO, the evidence lower bound, is a lower bound of the log-likelihood of x (B, ...). The
    model has the methods `encode`, to the mean and the log variance of q(z | x), and `decode`, like
    `VAE`. The loss is the negative log-likelihood of x given a latent z, sampled by the
    reparameterization trick (z = mean + standard deviation * noise), plus `beta` times the KL
    divergence of q(z | x) from the standard normal prior (beta-VAE; Higgins et al., 2017), in nats
    a row. Metrics, in nats a row: elbo (with beta 1), kl, reconstruction; in evaluation, with
    `importance_samples` K, also iwae{K}, the importance weighted bound (IWAE; Burda et al., 2016),
    which is tighter and decodes K times. Predictions: the mean code.
    """
    if beta < 0 or importance_samples < 0:
        raise Error(
            f"beta and importance_samples must be at least 0; got {beta=}, {importance_samples=}."
        )
    model_call.require_methods("elbo", model, "encode", "decode")
    return VariationalAutoencoding(model, likelihood, beta, importance_samples)


@dataclass(frozen=True, eq=False)
class VariationalAutoencoding(model_call.ModelObjective):
    """A variational autoencoder; see `elbo`."""

    likelihood: Likelihood
    beta: float
    importance_samples: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean negative ELBO of the rows, its KL divergence times beta, in nats."""
        x, mask = model_call.column(batch), batch.get("mask")
        (mean, log_variance), model_state = model_call.apply(
            self.model, variables, (x,), batch, stream(key, "encoder"), train, "encode"
        )
        std = jnp.exp(log_variance / 2)
        # The reparameterization trick.
        z = mean + std * sample_rows(jax.random.normal, stream(key, "latent"), mean.shape)
        updated = {**variables, **model_state}
        out, model_state = model_call.apply(
            self.model, updated, (z,), batch, stream(key, "decoder"), train, "decode"
        )
        reconstruction = self._nll(out, x)
        kl = 0.5 * (std**2 + mean**2 - 1 - log_variance).sum(-1)
        nats = {"elbo": -(reconstruction + kl), "kl": kl, "reconstruction": reconstruction}
        if self.importance_samples and not train:
            bound = self._iwae(variables, batch, key, mean, std)
            nats[f"iwae{self.importance_samples}"] = bound
        scores: Metrics = {name: Mean.of(values, mask) for name, values in nats.items()}
        return LossOutput(Mean.of(reconstruction + self.beta * kl, mask), scores, model_state)

    def _nll(self, out: Array, x: Array) -> Array:
        """The negative log-likelihood of rows x given the decoder's outputs, (B,) in nats."""
        return self.likelihood.nll(out, x).reshape(len(x), -1).sum(-1)

    def _iwae(self, variables: Variables, batch: Batch, key: Key, mean: Array, std: Array) -> Array:
        """The importance weighted bound: log of the mean of p(x, z) / q(z | x) over z, (B,)."""

        def log_weight(n: Array) -> Array:
            epsilon = sample_rows(jax.random.normal, stream(key, "importance", n), mean.shape)
            z = mean + std * epsilon
            out = model_call.evaluate(self.model, variables, batch, (z,), "decode")
            log_likelihood = -self._nll(out, model_call.column(batch))
            return log_likelihood + 0.5 * (epsilon**2 - z**2).sum(-1) + jnp.log(std).sum(-1)

        log_weights = jax.lax.map(log_weight, jnp.arange(self.importance_samples))
        return jax.nn.logsumexp(log_weights, 0) - math.log(self.importance_samples)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The mean codes (B, K) of the rows."""
        return {"code": self.encode(variables, batch)}

    def encode(self, variables: Variables, batch: Batch) -> Array:
        """The mean codes (B, K) of the rows."""
        inputs = (model_call.column(batch),)
        return model_call.evaluate(self.model, variables, batch, inputs, "encode")[0]

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """The means of p(x | z), (B, ...), for latents z (B, K)."""
        out = model_call.evaluate(self.model, variables, batch, (z,), "decode")
        return self.likelihood.mean(out)

    def sample_latent(self, key: Key, batch: Batch) -> Array:
        """Latents (B, K) from the standard normal prior, one for each row of the batch."""

        def codes(key: Key) -> Array:
            return self.encode(self.init(key, batch), batch)

        return sample_rows(jax.random.normal, key, jax.eval_shape(codes, key).shape)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the output does not have the shape of x, or x is out of range."""
        _check_shape(self.model, spec)
        if self.likelihood.support and "x" in bounds:
            (least, greatest), (low, high) = bounds["x"], self.likelihood.support
            if least < low or greatest > high:
                raise Error(
                    f"This likelihood needs x from {low} to {high}, but x is from {least} to "
                    f"{greatest}: scale it, or choose another likelihood, such as gaussian()."
                )


def _check_shape(model: Any, spec: Batch) -> None:
    out, x = model_call.output_shape(model, spec), model_call.column(spec).shape
    if out != x:
        raise Error(f"The model gives {out} for x of shape {x}: give it the shape {x[1:]}.")
