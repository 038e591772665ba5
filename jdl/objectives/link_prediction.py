"""Link prediction in graphs, by dot products of node embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    Metrics,
    Variables,
)

LINKS, NEGATIVES = "links", "negatives"  # columns of pairs of nodes with and without a link


def link_prediction(model: Any) -> LinkPrediction:
    """Link prediction in graphs, by a graph autoencoder (Kipf and Welling, 2016).

    The model embeds the nodes x (B, N, F) of graphs with edges (B, E, 2) as codes (B, N, D); the
    logit of a link is the dot product of the codes of its two nodes. The loss is the binary
    cross-entropy (BCE) of the column `links` (B, L, 2) and of as many negatives, pairs of nodes
    without a link: the column `negatives` (B, L, 2) or, if the data have none, random pairs at each
    step (negative sampling), which may include links. Metric, in evaluation: auc, the area under
    the ROC curve. Predictions: the codes.
    """
    return LinkPrediction(model)


@dataclass(frozen=True, eq=False)
class LinkPrediction(model_call.ModelObjective):
    """Link prediction; see `link_prediction`."""

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean binary cross-entropy of links and negatives, and in evaluation the AUC."""
        inputs, mask = model_call.model_inputs(self.model, batch), batch.get("mask")
        codes, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        links = model_call.column(batch, LINKS)
        negatives = batch.get(NEGATIVES)
        if negatives is None:
            negatives = _sample_pairs(stream(key, "negatives"), links, nodes=codes.shape[1])
        positive, negative = _link_logits(codes, links), _link_logits(codes, negatives)
        bce = optax.sigmoid_binary_cross_entropy
        losses = bce(positive, jnp.ones_like(positive))
        losses = jnp.concatenate([losses, bce(negative, jnp.zeros_like(negative))], 1)
        scores: Metrics = {} if train else {"auc": Mean.of(_ranking(positive, negative), mask)}
        return LossOutput(Mean.of(losses, mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The codes (B, N, D) of the nodes."""
        return {"code": model_call.evaluate(self.model, variables, batch)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if `links` are not pairs, or the model does not give a code per node."""
        links = model_call.column(spec, LINKS).shape
        codes = model_call.output_shape(self.model, spec)
        if len(links) != 3 or links[2] != 2 or codes[:2] != spec["x"].shape[:2]:
            raise Error(
                f"link_prediction needs the column {LINKS} as pairs (B, L, 2) and a model that "
                f"gives codes (B, N, D); here they are {links} and {codes}."
            )


def _sample_pairs(key: Key, links: Array, nodes: int) -> Array:
    """Negative sampling: random pairs of nodes, as many as there are links, (B, L, 2)."""

    def draw(key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.randint(key, shape, 0, nodes, links.dtype)

    return sample_rows(draw, key, links.shape)


def _link_logits(codes: Array, pairs: Array) -> Array:
    """The dot products of the codes (B, N, D) of both nodes of each pair (B, L, 2): (B, L)."""
    a, b = (jnp.take_along_axis(codes, pairs[:, :, side, None], 1) for side in (0, 1))
    return (a * b).sum(-1)


def _ranking(positive: Array, negative: Array) -> Array:
    """For each link and negative, 1 if the link's logit is larger, 1/2 if equal: mean AUC."""
    above = jnp.greater(positive[:, :, None], negative[:, None])
    equal = jnp.equal(positive[:, :, None], negative[:, None])
    return above.astype(jnp.float32) + 0.5 * equal.astype(jnp.float32)
