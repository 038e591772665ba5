"""BYOL: self-supervised learning of two views of each row, without negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl import metrics
from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.autoencoding import Augment
from jdl.objectives.metric_learning import normalized
from jdl.objectives.networks import apply_network, join_networks
from jdl.objectives.views import TwoViews, augment_of, two_views, vector_width
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Variables

PREDICTION = "prediction"  # the name of the predictor's parameters
TARGET = "target"  # the collection with the variables of the target network, by collection


def byol(
    model: Any, projection: Any, prediction: Any, augment: Augment | Sequence[Augment]
) -> BYOL:
    """BYOL (Grill et al., 2020): self-supervised learning of an encoder, without negatives.

    As in `simclr`, two views of each row are drawn by `augment`, and the encoder `model` and the
    head `projection` map them to vectors. The predictor, `prediction`, such as `MLP(64, (128,))`,
    maps the vector of one view to that which the target network gives for the other view. The
    target network is a moving average of encoder and projection head, which has no gradient. So the
    learner must be wrapped: `jdl.target_network(jdl.descent(...))`.

    The loss is the squared distance of both vectors, each of length 1, the sum of both directions:
    from 0 to 8. A low loss may be worth nothing: if all rows had the same vector (collapse), it
    would be 0. The metric `spread` shows this: the variance of the target's vectors, from 0, where
    all are the same, to 1. Predictions: the features `code` (B, D), of the row itself.
    """
    return BYOL(model, projection, augment_of(augment), prediction)


@dataclass(frozen=True, eq=False)
class BYOL(TwoViews):
    """Bootstrap your own latent; see `byol`."""

    prediction: Any

    def init(self, key: Key, batch: Batch) -> Variables:
        """The initial variables of encoder, projection head and predictor."""
        both = super().init(key, batch)
        vectors = jax.eval_shape(lambda v: self.project(v, batch, key, False)[0], both)
        inputs = jnp.zeros(vectors.shape)
        head = model_call.init(self.prediction, stream(key, PREDICTION), batch, inputs)
        third = join_networks({PREDICTION: head})
        return {name: both.get(name, {}) | third.get(name, {}) for name in {**both, **third}}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean squared distance of predicted and target vectors, both ways."""
        target = self._target(variables)
        views = two_views(self.augment, batch, key)
        keys = stream(key, "first"), stream(key, "second")
        predicted, given = [], []
        for view, view_key in zip(views, keys, strict=True):
            vector, _ = self.project(target, view, stream(view_key, TARGET), train)
            given.append(jax.lax.stop_gradient(normalized(vector)))
            vector, variables = self._predict_vector(variables, view, view_key, train)
            predicted.append(normalized(vector))
        distance = _squared(predicted[0], given[1]) + _squared(predicted[1], given[0])
        mask = batch.get("mask", jnp.ones(len(distance), bool))
        spread = _spread(given[0], mask)
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return LossOutput(Mean.of(distance, mask), {"spread": spread}, model_state)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless the predictor gives vectors of the projection's width."""
        super().check(spec, bounds)
        features = model_call.output_shape(self.model, spec)[1]
        width = vector_width("projection", self.projection, spec, features)
        predicted = vector_width("prediction", self.prediction, spec, width)
        if predicted != width:
            raise Error(
                f"The prediction must be as wide as the projection, {width}, but is {predicted}."
            )

    def _target(self, variables: Variables) -> Variables:
        """The variables of the target network, in the type of the parameters."""
        if TARGET not in variables:
            raise Error(
                "byol needs a target network: wrap the learner, as in "
                "jdl.target_network(jdl.descent(jdl.objectives.byol(...), optimizer))."
            )
        target = variables[TARGET]
        params = jax.tree.map(
            lambda old, now: old.astype(now.dtype), target["params"], variables["params"]
        )
        return {**target, "params": params}

    def _predict_vector(
        self, variables: Variables, view: Batch, key: Key, train: bool
    ) -> tuple[Array, Variables]:
        """What the predictor makes of a view (B, D), and the variables afterwards."""
        vector, variables = self.project(variables, view, key, train)
        head_key = stream(key, PREDICTION)
        return apply_network(
            self.prediction, PREDICTION, variables, (vector,), view, head_key, train
        )


def _squared(a: Array, b: Array) -> Array:
    return jnp.square(a - b).sum(-1)


def _spread(vectors: Array, mask: Array) -> metrics.Sums:
    """The variance of vectors (B, D) of length 1: 1 minus the squared length of their mean."""
    real = mask.astype(jnp.float32)
    total = jnp.where(real[:, None] != 0, vectors, 0).sum(0)
    return metrics.Sums(_variance, {"total": total, "count": real.sum()})


def _variance(total: Array, count: Array) -> Array:
    return 1 - (total**2).sum() / count**2
