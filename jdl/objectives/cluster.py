"""Deep embedded clustering: an autoencoder whose codes are drawn together around centres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.layers import over_rows
from jdl.objectives.autoencode import Augment, autoencode, disturbed
from jdl.types import Array, Batch, Error, Key, Maker, Mean, Metrics, Objective, Out, Variables

CENTRES = "centres"
BEGUN = "clustering"  # the collection that says whether there are centres yet


def cluster(
    model: Any,
    clusters: int,
    weight: float = 0.1,
    noise: float = 0.0,
    augment: Augment | None = None,
    error: Callable[[Array, Array], Array] = optax.squared_error,
) -> Objective:
    """Deep embedded clustering (Xie et al., 2016) that goes on making x (B, ...) of itself (Guo et al., 2017).

    The loss is that of `autoencode`, with its `noise` and `augment`, and once there are centres `weight` times the
    divergence KL(p | q), in nats a row: q says how near a code is to each centre, by Student's t in units of their
    distance at the start, and p is q squared, by how much each centre has in this batch, made to sum to 1: what is near
    comes nearer. In training q is of the rows as they are read, and p of the rows as they are: the same row is to be
    near the same centre, however it looks (Guo et al., 2018).

    For `jdl.learners.clustered`, which puts the centres where k-means does. It predicts the code, the cluster and q.
    Metrics: mse, and the divergence kl.
    """
    if clusters < 2:
        raise Error(f"clusters is how many groups are looked for, at least 2, and {clusters} is not.")
    inner = autoencode(model, noise, augment, error)
    assert inner.predict
    assert inner.maker
    assert inner.maker.encode
    say, make, encode = inner.predict, inner.maker.make, inner.maker.encode

    def near(variables: Variables, codes: Array) -> Array:
        return nearness(codes, variables["params"][CENTRES], variables[BEGUN]["spread"])

    def init(key: Key, batch: Batch) -> Variables:
        variables = inner.init(key, batch)
        code = jax.eval_shape(say, variables, batch)["code"]
        if len(code.shape) != 2:
            raise Error(f"cluster needs codes (B, D), and the model's are {code.shape}.")
        params = {"model": variables["params"], CENTRES: jnp.zeros((clusters, code.shape[1]))}
        return {**variables, "params": params, BEGUN: {"begun": jnp.zeros(()), "spread": jnp.ones(())}}

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> Out:
        begun, mask = variables[BEGUN]["begun"], batch.get("mask")
        q = near(variables, say(_model(variables), batch)["code"])
        p = jax.lax.stop_gradient(sharpened(q, mask))
        if train:
            seen = {**batch, "x": disturbed(batch, key, noise, augment)}
            q = near(variables, say(_model(variables), seen)["code"])
        out = inner.loss(_model(variables), batch, key, train)
        kl = begun * (p * (jnp.log(p.clip(1e-12)) - jnp.log(q))).sum(-1)
        nats = Mean.of(kl, mask)
        # The mean error counts elements and the divergence rows: both are weighed by the elements of a row.
        total = out.loss.total + weight * nats.total * (out.loss.count / jnp.where(nats.count > 0, nats.count, 1))
        metrics: Metrics = {**out.metrics, "kl": nats}
        return Out(Mean(total, out.loss.count), metrics, {**out.carry, BEGUN: variables[BEGUN]})

    def predict(variables: Variables, batch: Batch) -> Batch:
        code = say(_model(variables), batch)["code"]
        q = near(variables, code)
        return {"code": code, "cluster": q.argmax(-1), "probability": q}

    maker = Maker(
        lambda variables, z, batch, key: make(_model(variables), z, batch, key),
        encode=lambda variables, batch: encode(_model(variables), batch),
    )
    return Objective(init, loss, predict, inner.check, maker=maker)


def nearness(codes: Array, centres: Array, spread: Array) -> Array:
    """How near each code (B, D) is to each of the centres (K, D), summing to 1: (B, K).

    By Student's t of one degree, whose unit of squared distances is `spread` ().
    """
    apart = jnp.square(codes[:, None] - centres[None]).sum(-1) / spread
    return (1 / (1 + apart)) / (1 / (1 + apart)).sum(-1, keepdims=True)


def sharpened(q: Array, mask: Array | None = None) -> Array:
    """What rows q (B, K) are to become: their squares, by each column's sum over the real rows, summing to 1."""
    real = q if mask is None else jnp.where(mask[:, None].astype(bool), q, 0)
    weights = jnp.square(q) / over_rows(real.sum(0)).clip(1e-12)[None]
    return weights / weights.sum(-1, keepdims=True)


def _model(variables: Variables) -> Variables:
    rest = {name: v for name, v in variables.items() if name != BEGUN}
    return {**rest, "params": variables["params"]["model"]}
