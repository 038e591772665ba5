"""Deep embedded clustering: an autoencoder whose codes are drawn together around centres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.layers import all_gather_batch, psum_batch
from jdl.objectives.autoencoding import Augment, autoencode, disturbed
from jdl.types import (
    Array,
    Batch,
    Error,
    Key,
    Maker,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)

CENTRES = "centres"
BEGUN = "clustering"  # the collection that says whether there are centres yet


def cluster(
    model: Any,
    clusters: int,
    weight: float = 0.1,
    noise: float = 0.0,
    augment: Augment | None = None,
    contrast: float = 0.0,
    error: Callable[[Array, Array], Array] = optax.squared_error,
) -> Objective:
    """Deep embedded clustering (Xie et al., 2016) that goes on making x (B, ...) of itself (Guo et al., 2017).

    The loss is that of `autoencode`, with its `noise` and `augment`, and once there are centres `weight` times the
    divergence KL(p | q), in nats a row: q says how near a code is to each centre, by Student's t in units of their
    distance at the start, and p is q squared, by how much each centre has in this batch, made to sum to 1: what is near
    comes nearer. In training q is of the rows as they are read, and p of the rows as they are: the same row is to be
    near the same centre, however it looks (Guo et al., 2018).

    With `contrast`, the loss has so many times what `told_apart` says of the code of a row and of the same row as it is
    read, among those of the batch (Boehm et al., 2023). Where `augment` gives one of the rows nearest to the row, codes
    keep who is near whom, and two numbers are a map of the data, as by t-SNE (Damrich et al., 2023).

    For `jdl.learners.clustering`, which puts the centres where k-means does. It predicts the code, the cluster and q.
    Metrics: mse, the divergence kl, and in training with `contrast` that, in nats a row.
    """
    if clusters < 2:
        raise Error(
            f"clusters is how many groups are looked for, at least 2, and {clusters} is not."
        )
    if weight < 0 or contrast < 0:
        raise Error(f"weight and contrast are 0 or more, and {weight} and {contrast} are given.")
    if contrast and not (augment or noise):
        raise Error(
            "contrast is between a row and the same row as it is read: give augment or noise to change it."
        )
    inner = autoencode(model, noise, augment, error)
    assert inner.predict
    assert inner.maker
    assert inner.maker.encode
    say, make, encode = inner.predict, inner.maker.make, inner.maker.encode

    def near(variables: Variables, codes: Array) -> Array:
        return soft_assignment(codes, variables["params"][CENTRES], variables[BEGUN]["spread"])

    def init(key: Key, batch: Batch) -> Variables:
        variables = inner.init(key, batch)
        code = jax.eval_shape(say, variables, batch)["code"]
        if len(code.shape) != 2:
            raise Error(f"cluster needs codes (B, D), and the model's are {code.shape}.")
        params = {"model": variables["params"], CENTRES: jnp.zeros((clusters, code.shape[1]))}
        return {
            **variables,
            "params": params,
            BEGUN: {"begun": jnp.zeros(()), "spread": jnp.ones(())},
        }

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        begun, mask = variables[BEGUN]["begun"], batch.get("mask")
        out = inner.loss(_model(variables), batch, key, train)
        code = seen = say(_model(variables), batch)["code"]
        if train:
            seen = say(_model(variables), {**batch, "x": disturbed(batch, key, noise, augment)})[
                "code"
            ]
        p, q = (
            jax.lax.stop_gradient(target_distribution(near(variables, code), mask)),
            near(variables, seen),
        )
        kl = Mean.of(begun * (p * (jnp.log(p.clip(1e-12)) - jnp.log(q))).sum(-1), mask)
        metrics: Metrics = {**out.metrics, "kl": kl}
        nats = weight * kl.total
        if train and contrast:
            metrics["contrast"] = cost = Mean.of(info_nce(code, seen, mask), mask)
            nats = nats + contrast * cost.total
        # The mean error counts elements and the nats rows: both are weighed by the elements of a row.
        total = out.loss.total + nats * (out.loss.count / jnp.where(kl.count > 0, kl.count, 1))
        return LossOutput(
            Mean(total, out.loss.count), metrics, {**out.model_state, BEGUN: variables[BEGUN]}
        )

    def predict(variables: Variables, batch: Batch) -> Batch:
        code = say(_model(variables), batch)["code"]
        q = near(variables, code)
        return {"code": code, "cluster": q.argmax(-1), "probability": q}

    maker = Maker(
        lambda variables, z, batch, key: make(_model(variables), z, batch, key),
        encode=lambda variables, batch: encode(_model(variables), batch),
    )
    return Objective(init, loss, predict, inner.check, maker=maker)


def soft_assignment(codes: Array, centres: Array, spread: Array) -> Array:
    """How near each code (B, D) is to each of the centres (K, D), summing to 1: (B, K).

    By Student's t of one degree, whose unit of squared distances is `spread` ().
    """
    near = _student(codes, centres, spread)
    return near / near.sum(-1, keepdims=True)


def target_distribution(q: Array, mask: Array | None = None) -> Array:
    """What rows q (B, K) are to become: their squares, by each column's sum over the real rows, summing to 1."""
    real = q if mask is None else jnp.where(mask[:, None].astype(bool), q, 0)
    weights = jnp.square(q) / psum_batch(real.sum(0)).clip(1e-12)[None]
    return weights / weights.sum(-1, keepdims=True)


def info_nce(codes: Array, others: Array, mask: Array | None = None) -> Array:
    """What it costs to tell a row's own among the other codes (B, D), by its being near to the code (B, D): (B,) nats.

    By Student's t of one degree again. Of real rows alone, on all devices.
    """
    own = jnp.log1p(jnp.square(codes - others).sum(-1))
    every = all_gather_batch(others)
    near = _student(codes, every)
    if mask is not None:
        near = jnp.where(all_gather_batch(mask).astype(bool)[None], near, 0)
    return own + jnp.log(near.sum(-1).clip(1e-12))


def _student(codes: Array, centres: Array, spread: Array | float = 1.0) -> Array:
    return 1 / (1 + squares(codes, centres) / spread)


def squares(rows: Array, centres: Array) -> Array:
    """The squared distances of rows (N, D) from centres (K, D): (N, K)."""
    return jnp.square(rows[:, None] - centres[None]).sum(-1)


def _model(variables: Variables) -> Variables:
    rest = {name: v for name, v in variables.items() if name != BEGUN}
    return {**rest, "params": variables["params"]["model"]}
