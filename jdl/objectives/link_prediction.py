"""Link prediction: which pairs of a graph's nodes are joined, by the products of their codes."""

from __future__ import annotations

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
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)


def link(model: Any) -> Objective:
    """Nodes x (B, N, F) and edges (B, E, 2) to codes (B, N, D): the logit of a link is the product of two codes.

    The binary cross-entropy of `links` (B, L, 2) and of as many pairs that are none: those of the column `others` (B,
    L, 2), or where there is none, as in training, pairs drawn anew (Kipf and Welling, 2016). Metric, in evaluation:
    auc, the share of pairs of a link and an other in which the link has the greater logit. It predicts the codes.
    """

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        codes, model_state = call.apply(model, variables, call.from_x(batch), batch, key, train)
        links = call.column(batch, "links")
        others = batch.get("others")
        if others is None:

            def pairs(key: Key, shape: tuple[int, ...]) -> Array:
                return jax.random.randint(key, shape, 0, codes.shape[1], links.dtype)

            others = sample_rows(pairs, stream(key, "others"), links.shape)
        found, fake = _logits(codes, links), _logits(codes, others)
        mask = batch.get("mask")
        losses = optax.sigmoid_binary_cross_entropy(found, jnp.ones_like(found))
        losses = jnp.concatenate(
            [losses, optax.sigmoid_binary_cross_entropy(fake, jnp.zeros_like(fake))], 1
        )
        metrics: Metrics = {}
        if not train:
            above, equal = (f(found[:, :, None], fake[:, None]) for f in (jnp.greater, jnp.equal))
            metrics["auc"] = Mean.of(
                above.astype(jnp.float32) + 0.5 * equal.astype(jnp.float32), mask
            )
        return LossOutput(Mean.of(losses, mask), metrics, model_state)

    def predict(variables: Variables, batch: Batch) -> Batch:
        return {
            "code": call.apply(
                model, variables, call.from_x(batch), batch, jax.random.key(0), False
            )[0]
        }

    def check(batch: Batch, bounds: Bounds) -> None:
        links, codes = call.column(batch, "links").shape, call.output_shape(model, batch)
        if len(links) != 3 or links[2] != 2 or codes[:2] != batch["x"].shape[:2]:
            raise Error(
                f"link needs pairs links (B, L, 2) and codes (B, N, D), and is given {links} and {codes}."
            )

    return Objective(partial(call.init_from_x, model), loss, predict, check)


def _logits(codes: Array, pairs: Array) -> Array:
    """The products of the codes (B, N, D) at both ends of pairs (B, L, 2): (B, L)."""
    a, b = (jnp.take_along_axis(codes, pairs[:, :, side, None], 1) for side in (0, 1))
    return (a * b).sum(-1)
