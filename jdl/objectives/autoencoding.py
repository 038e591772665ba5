"""Autoencoders: rows squeezed into a few numbers and made of them again, by error or by a bound of the likelihood."""

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
    Metrics,
    Objective,
    LossOutput,
    Variables,
)

Augment = Callable[[Key, Batch], Batch]  # one example's columns to the same


def autoencode(
    model: Any,
    noise: float = 0.0,
    augment: Augment | None = None,
    error: Callable[[Array, Array], Array] = optax.squared_error,
) -> Objective:
    """Makes x (B, ...) of itself, by the mean `error(made, x)` over rows and elements.

    In training the model reads x after `augment`, a transform (key, example) -> example, and with normal `noise` of
    this standard deviation added, and is still to make x itself (denoising; Vincent et al., 2008). The model has the
    methods `encode` and `decode`, like `Autoencoder`. Metric: mse, whatever the error. It predicts the code.
    """
    if noise < 0:
        raise Error(f"noise is a standard deviation, 0 or more, and {noise} is not.")

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        x, mask = call.column(batch), batch.get("mask")
        seen = disturbed(batch, key, noise, augment) if train else x
        made, model_state = call.apply(model, variables, (seen,), batch, key, train)
        return LossOutput(
            Mean.of(error(made, x), mask),
            {"mse": Mean.of(optax.squared_error(made, x), mask)},
            model_state,
        )

    def encode(variables: Variables, batch: Batch) -> Array:
        return _looked(model, variables, call.column(batch), batch, "encode")

    def make(variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        return _looked(model, variables, z, batch, "decode")

    def predict(variables: Variables, batch: Batch) -> Batch:
        return {"code": encode(variables, batch)}

    return Objective(
        partial(call.init_from_x, model),
        loss,
        predict,
        partial(_check, model),
        maker=Maker(make, encode=encode),
    )


def disturbed(batch: Batch, key: Key, noise: float, augment: Augment | None) -> Array:
    """The rows x (B, ...) as an autoencoder reads them in training."""
    x = call.column(batch)
    if augment:
        keys = sample_rows(
            lambda key, shape: jax.random.split(key, shape[0]), stream(key, "augment"), (len(x),)
        )
        x = jax.vmap(augment)(keys, batch)["x"]
    return x + noise * sample_rows(jax.random.normal, stream(key, "noise"), x.shape) if noise else x


@dataclass(frozen=True)
class Likelihood:
    """What a decoder's output says of x: `nats(out, x)`, minus the log density, element by element; and the `mean`."""

    nats: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    between: tuple[float, float] | None = None  # the least and the greatest x there can be


bernoulli = Likelihood(optax.sigmoid_binary_cross_entropy, jax.nn.sigmoid, (0.0, 1.0))
"""Each number of x is the probability of a one, as the output's sigmoid is.

Bounds in these nats are then bounds of the mean log-likelihood of images drawn so: of binarised ones.
"""


def gaussian(scale: float = 0.1) -> Likelihood:
    """Each number of x is normal around the output, with this standard deviation."""
    if scale <= 0:
        raise Error(f"scale is a standard deviation, above 0, and {scale} is not.")

    def nats(out: Array, x: Array) -> Array:
        return 0.5 * jnp.square((x - out) / scale) + math.log(scale * math.sqrt(2 * math.pi))

    return Likelihood(nats, lambda out: out)


def elbo(
    model: Any, likelihood: Likelihood = bernoulli, beta: float = 1.0, importance: int = 0
) -> Objective:
    """A variational autoencoder (Kingma and Welling, 2014): x (B, ...) by a lower bound of its log-likelihood.

    The model has the methods `encode`, to mean and log variance, and `decode`, like `VAE`. The loss is what the
    reconstruction costs plus `beta` times the divergence of the code from a standard normal (Higgins et al., 2017), in
    nats a row. Metrics, in nats a row: elbo (with beta 1), kl, reconstruction; in evaluation, with `importance` K, the
    bound by K weighted samples, bound{K} (Burda et al., 2016), which costs K decodings. It predicts the mean code.
    """
    if beta < 0 or importance < 0:
        raise Error(f"beta and importance are 0 or more, and {beta} and {importance} are given.")

    def nats(out: Array, x: Array) -> Array:
        return likelihood.nats(out, x).reshape(len(x), -1).sum(-1)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        x, mask = call.column(batch), batch.get("mask")
        (mean, log_variance), model_state = call.apply(
            model, variables, (x,), batch, stream(key, "encoder"), train, "encode"
        )
        scale = jnp.exp(log_variance / 2)
        z = mean + scale * sample_rows(jax.random.normal, stream(key, "latent"), mean.shape)
        out, model_state = call.apply(
            model,
            {**variables, **model_state},
            (z,),
            batch,
            stream(key, "decoder"),
            train,
            "decode",
        )
        reconstruction = nats(out, x)
        kl = 0.5 * (scale**2 + mean**2 - 1 - log_variance).sum(-1)
        found = {"elbo": -(reconstruction + kl), "kl": kl, "reconstruction": reconstruction}
        if importance and not train:
            found[f"bound{importance}"] = bound(variables, batch, key, mean, scale)
        metrics: Metrics = {name: Mean.of(values, mask) for name, values in found.items()}
        return LossOutput(Mean.of(reconstruction + beta * kl, mask), metrics, model_state)

    def bound(variables: Variables, batch: Batch, key: Key, mean: Array, scale: Array) -> Array:
        """The log of the mean weight p(x, z) / q(z | x) of samples z, (B,)."""

        def weight(n: Array) -> Array:
            epsilon = sample_rows(jax.random.normal, stream(key, "importance", n), mean.shape)
            z = mean + scale * epsilon
            said = -nats(_looked(model, variables, z, batch, "decode"), batch["x"])
            return said + 0.5 * (epsilon**2 - z**2).sum(-1) + jnp.log(scale).sum(-1)

        weights = jax.lax.map(weight, jnp.arange(importance))
        return jax.nn.logsumexp(weights, 0) - math.log(importance)

    def encode(variables: Variables, batch: Batch) -> Array:
        return _looked(model, variables, call.column(batch), batch, "encode")[0]

    def make(variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        return likelihood.mean(_looked(model, variables, z, batch, "decode"))

    def noise(key: Key, batch: Batch) -> Array:
        codes, _ = jax.eval_shape(lambda key: _codes(model, key, batch), key)
        return sample_rows(jax.random.normal, key, codes.shape)

    def predict(variables: Variables, batch: Batch) -> Batch:
        return {"code": encode(variables, batch)}

    def check(batch: Batch, bounds: Bounds) -> None:
        _check(model, batch, bounds)
        if likelihood.between and "x" in bounds:
            (least, greatest), (low, high) = bounds["x"], likelihood.between
            if least < low or greatest > high:
                raise Error(
                    f"This likelihood is of x from {low} to {high}, and it runs from {least} to {greatest}: scale it, "
                    "or take another, like gaussian()."
                )

    return Objective(
        partial(call.init_from_x, model),
        loss,
        predict,
        check,
        maker=Maker(make, noise=noise, encode=encode),
    )


def _codes(model: Any, key: Key, batch: Batch) -> Any:
    variables = call.init_from_x(model, key, batch)
    return _looked(model, variables, batch["x"], batch, "encode")


def _looked(model: Any, variables: Variables, x: Array, batch: Batch, method: str) -> Any:
    """What a method of the model says in evaluation."""
    return call.apply(model, variables, (x,), batch, jax.random.key(0), False, method)[0]


def _check(model: Any, batch: Batch, bounds: Bounds) -> None:
    made, x = call.output_shape(model, batch), call.column(batch).shape
    if made != x:
        raise Error(f"The model makes {made} of rows x of {x}: give it the shape {x[1:]}.")
