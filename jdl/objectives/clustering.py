"""Deep clustering: an autoencoder with cluster centers in its code space (DEC, IDEC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl.layers import all_gather_batch, psum_batch
from jdl.objectives.autoencoding import Augment, Autoencoding, autoencode
from jdl.objectives.contrastive import info_nce
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
    Objective,
    Variables,
)

CENTERS = "centers"  # the parameter with the cluster centers, (clusters, D)
CLUSTERING = "clustering"  # the collection with `started` (0 or 1) and the `variance` of the kernel


def deep_clustering(
    model: Any,
    clusters: int,
    kl_weight: float = 0.1,
    noise: float = 0.0,
    augment: Augment | None = None,
    contrastive_weight: float = 0.0,
    loss: ElementLoss = optax.squared_error,
) -> DeepClustering:
    """Deep embedded clustering (DEC; Xie et al., 2016) of an autoencoder's codes (IDEC).

    Its learner must be wrapped in `jdl.learners.k_means_init`, which initializes the centers by
    k-means of the codes and starts the clustering. The loss is that of `autoencode`, with its
    `noise`, `augment` and `loss`, and after the start also `kl_weight` times KL(P || Q), in nats a
    row (IDEC; Guo et al., 2017). Q is the soft assignment of the codes to the clusters, and P the
    target distribution, a sharpened Q. In training Q is computed from corrupted rows, and P from
    clean ones (Guo et al., 2018).

    `contrastive_weight` adds that many times a contrastive loss: InfoNCE between the codes of a row
    and of the same row corrupted, against the other rows of the batch (t-SimCNE; Boehm et al.,
    2023). If `augment` replaces a row by one of its nearest neighbors, the codes preserve the
    neighborhoods, and two-dimensional codes are a map like t-SNE's (Damrich et al., 2023).

    Predictions: the code, the cluster and the soft assignment. Metrics: mse, kl, and in training
    with `contrastive_weight` also info_nce, in nats a row.
    """
    if clusters < 2:
        raise Error(f"clusters, their number, must be at least 2, got {clusters}.")
    if kl_weight < 0 or contrastive_weight < 0:
        raise Error(
            "kl_weight and contrastive_weight must be at least 0; got "
            f"{kl_weight=}, {contrastive_weight=}."
        )
    if contrastive_weight and not (augment or noise):
        raise Error(
            "The contrastive loss compares a row with the same row corrupted: give augment or "
            "noise."
        )
    autoencoding = autoencode(model, noise, augment, loss)
    return DeepClustering(autoencoding, clusters, kl_weight, contrastive_weight)


@dataclass(frozen=True, eq=False)
class DeepClustering(Objective):
    """Deep embedded clustering; see `deep_clustering`."""

    autoencoding: Autoencoding
    clusters: int
    kl_weight: float
    contrastive_weight: float

    def init(self, key: Key, batch: Batch) -> Variables:
        """The autoencoder's initial variables, and centers of zeros before the clustering."""
        variables = self.autoencoding.init(key, batch)
        code = jax.eval_shape(self.autoencoding.encode, variables, batch)
        if len(code.shape) != 2:
            raise Error(f"deep_clustering needs codes (B, D), but the model's are {code.shape}.")
        centers = jnp.zeros((self.clusters, code.shape[1]))
        return {
            **variables,
            "params": {"model": variables["params"], CENTERS: centers},
            CLUSTERING: {"started": jnp.zeros(()), "variance": jnp.ones(())},
        }

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean reconstruction loss plus the weighted KL divergence and contrastive loss."""
        started, mask = variables[CLUSTERING]["started"], batch.get("mask")
        output = self.autoencoding.loss(_of_model(variables), batch, key, train)
        code = corrupted = self.encode(variables, batch)
        if train:
            x = self.autoencoding.corrupt(batch, key)
            corrupted = self.encode(variables, {**batch, "x": x})
        p = jax.lax.stop_gradient(target_distribution(self._assignment(variables, code), mask))
        q = self._assignment(variables, corrupted)
        kl = Mean.of(started * (p * (jnp.log(p.clip(1e-12)) - jnp.log(q))).sum(-1), mask)
        scores: Metrics = {**output.metrics, "kl": kl}
        nats = self.kl_weight * kl.total
        if train and self.contrastive_weight:
            real = jnp.ones(len(code), bool) if mask is None else mask.astype(bool)
            contrastive = Mean.of(info_nce(student_t_logits(code, corrupted), real), mask)
            scores["info_nce"] = contrastive
            nats = nats + self.contrastive_weight * contrastive.total
        # The reconstruction loss is a mean over elements, and the nats are a mean over rows. Their
        # sum is stored with the count of elements, so the total of the nats is scaled to it.
        elements = output.loss.count
        total = output.loss.total + nats * (elements / jnp.where(kl.count > 0, kl.count, 1))
        model_state = {**output.model_state, CLUSTERING: variables[CLUSTERING]}
        return LossOutput(Mean(total, elements), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The code (B, D), the cluster (B,) and the soft assignment (B, K) of each row."""
        code = self.encode(variables, batch)
        q = self._assignment(variables, code)
        return {"code": code, "cluster": q.argmax(-1), "probability": q}

    def encode(self, variables: Variables, batch: Batch) -> Array:
        """The codes (B, D) of the rows."""
        return self.autoencoding.encode(_of_model(variables), batch)

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Rows (B, ...) from codes z (B, D)."""
        return self.autoencoding.decode(_of_model(variables), z, batch, key)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the output does not have the shape of x."""
        self.autoencoding.check(spec, bounds)

    def _assignment(self, variables: Variables, codes: Array) -> Array:
        centers, variance = variables["params"][CENTERS], variables[CLUSTERING]["variance"]
        return soft_assignment(codes, centers, variance)


def soft_assignment(codes: Array, centers: Array, variance: Array) -> Array:
    """Soft assignment of codes (B, D) to cluster centers (K, D): probabilities (B, K).

    By a Student's t kernel of one degree of freedom (Xie et al., 2016), with squared distances in
    units of `variance` ().
    """
    similarity = _student_t(codes, centers, variance)
    return similarity / similarity.sum(-1, keepdims=True)


def target_distribution(q: Array, mask: Array | None = None) -> Array:
    """Target distribution of DEC (Xie et al., 2016): soft assignments q (B, K), sharpened.

    They are squared, divided by each cluster's sum over the real rows, and normalized.
    """
    real = q if mask is None else jnp.where(mask[:, None].astype(bool), q, 0)
    weights = jnp.square(q) / psum_batch(real.sum(0)).clip(1e-12)[None]
    return weights / weights.sum(-1, keepdims=True)


def student_t_logits(codes: Array, positives: Array) -> Array:
    """Log of the Student's t kernel of codes (B, D) and the positives of all devices: (B, N)."""
    return -jnp.log1p(squared_distances(codes, all_gather_batch(positives)))


def squared_distances(x: Array, centers: Array) -> Array:
    """Squared Euclidean distances of rows x (N, D) from centers (K, D): (N, K)."""
    return jnp.square(x[:, None] - centers[None]).sum(-1)


def _student_t(codes: Array, centers: Array, variance: Array) -> Array:
    """Unnormalized Student's t kernel of one degree of freedom: (N, K)."""
    return 1 / (1 + squared_distances(codes, centers) / variance)


def _of_model(variables: Variables) -> Variables:
    """The variables of the autoencoder, without those of the clustering."""
    rest = {name: v for name, v in variables.items() if name != CLUSTERING}
    return {**rest, "params": variables["params"]["model"]}
