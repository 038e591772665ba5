"""Contrastive learning of pairs by two towers: texts and translations, images and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.keys import stream
from jdl.layers import all_gather_batch, row_numbers
from jdl.objectives import model_call
from jdl.objectives.metric_learning import normalized
from jdl.objectives.networks import apply_network, join_networks
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

INITIAL = 0.07  # the temperature that training begins with, as in CLIP
COLDEST = 0.01  # the lowest one, as there
MOST = -math.log(COLDEST)  # the log of the scale that it gives
EXCLUDED = -1e9  # the logit of a padding row, which is nobody's negative
OF_X, OF_Y, LOG_SCALE = "model", "y_model", "log_scale"  # names of the parameters


def contrastive(model: Any, y_model: Any = None, temperature: float | None = None) -> Contrastive:
    """Contrastive learning of pairs (x, y) by two towers, as in CLIP (Radford et al., 2021).

    `model` is the tower (encoder) of x, and `y_model` that of y; each gives embeddings (B, D) of
    one width D. They may be of any kind: two texts, an image and a text. By default one model
    serves both, with shared weights (a siamese network, as Sentence-BERT; Reimers and Gurevych,
    2019), or with a tower for each kind of input (`jdl.models.clip.CLIP`). Columns whose names
    begin with `y_` belong to y: `y_length` are the lengths of y, as `length` those of x.

    The contrastive loss is InfoNCE (van den Oord et al., 2018) both ways, in nats: the
    cross-entropy of finding a row's y among those of all rows of the batch (in-batch negatives), on
    all devices, and its x likewise. The logits are cosine similarities over the temperature, which
    is learned too, from `temperature` (by default 0.07) down to 0.01. A model that has a parameter
    "log_scale" itself, as CLIP has, keeps it: it is the one that is learned, and by default from
    its own value. More rows in a batch make it harder, in evaluation too; with gradient
    accumulation a row's negatives are those of its micro-batch. Rows of a batch that fit each other
    as well as their own are treated as wrong.

    Predictions: the embeddings `code` of x and `y_code` of y, (B, D) each, of length 1. Metrics of
    an evaluation, where each x looks for its y among all rows: recall_at_1, recall_at_5 and mrr
    (mean reciprocal rank); see `jdl.metrics.retrieval_recall` for the other way.
    """
    if temperature is not None and not temperature >= COLDEST:
        raise Error(f"temperature must be at least {COLDEST}, not {temperature}.")
    return Contrastive(model, y_model, temperature)


@dataclass(frozen=True, eq=False)
class Contrastive(Objective):
    """Contrastive learning of pairs; see `contrastive`."""

    model: Any
    y_model: Any  # None: the same model
    temperature: float | None

    def init(self, key: Key, batch: Batch) -> Variables:
        """The initial variables of the towers, by collection and then by tower, and the scale."""
        towers = {OF_X: _init(self.model, key, batch)}
        if self.y_model is not None:
            towers[OF_Y] = _init(self.y_model, stream(key, OF_Y), of_y(batch))
        variables = join_networks(towers)
        params = variables.get("params", {})
        of_x = params.get(OF_X)
        own = isinstance(of_x, Mapping) and LOG_SCALE in of_x
        if own and self.temperature is None:
            return variables
        scale = jnp.asarray(-math.log(self.temperature or INITIAL), jnp.float32)
        new = {OF_X: {**of_x, LOG_SCALE: scale}} if own else {LOG_SCALE: scale}
        return {**variables, "params": {**params, **new}}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean of the cross-entropies of both directions, and in evaluation the metrics."""
        code, variables = self._encode(OF_X, variables, batch, key, train)
        y_key = stream(key, "y")
        y_code, variables = self._encode(OF_Y, variables, of_y(batch), y_key, train)
        params = variables["params"]
        log_scale = params[LOG_SCALE] if LOG_SCALE in params else params[OF_X][LOG_SCALE]
        scale = jnp.exp(_bounded(log_scale.astype(jnp.float32)))
        mask = batch.get("mask", jnp.ones(len(code), bool)).astype(bool)
        forth = info_nce(scale * cosines(code, y_code), mask)
        back = info_nce(scale * cosines(y_code, code), mask)
        scores: Metrics = {}
        if not train:
            codes = {"code": code, "y_code": y_code}
            scores["recall_at_1"] = metrics.retrieval_recall(codes, batch)
            scores["recall_at_5"] = metrics.retrieval_recall(codes, batch, 5)
            scores["mrr"] = metrics.mean_reciprocal_rank(codes, batch)
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return LossOutput(Mean.of((forth + back) / 2, mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The embeddings `code` of x and `y_code` of y; of a batch without one, of the other."""
        halves = {"code": (OF_X, batch), "y_code": (OF_Y, of_y(batch))}
        if "y" not in batch:
            del halves["y_code"]
        elif all(name in ("mask", "id") or is_of_y(name) for name in batch):
            del halves["code"]
        key = jax.random.key(0)  # unused in evaluation
        return {
            name: self._encode(tower, variables, half, key, False)[0]
            for name, (tower, half) in halves.items()
        }

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless both towers give embeddings (B, D) of one width."""
        model_call.column(spec, "y")
        y_model = self.model if self.y_model is None else self.y_model
        shapes = [
            model_call.output_shape(model, half)
            for model, half in ((self.model, spec), (y_model, of_y(spec)))
        ]
        if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
            raise Error(
                "Both towers must give embeddings (B, D) of one width, but that of x gives "
                f"{shapes[0]} and that of y {shapes[1]}."
            )

    def _encode(
        self, tower: str, variables: Variables, half: Batch, key: Key, train: bool
    ) -> tuple[Array, Variables]:
        """The normalized embeddings of one half of the pairs, and the variables afterwards."""
        model = self.model if tower == OF_X or self.y_model is None else self.y_model
        tower = OF_X if self.y_model is None else tower
        inputs = model_call.model_inputs(model, half)
        out, variables = apply_network(model, tower, variables, inputs, half, key, train)
        return normalized(out), variables


@jax.custom_vjp
def _bounded(log_scale: Array) -> Array:
    """The log of the scale, at most that of the lowest temperature.

    At the bound a gradient that leads back from it passes: that of `minimum` would be 0 for ever.
    """
    return jnp.minimum(log_scale, MOST)


def _bounded_forward(log_scale: Array) -> tuple[Array, Array]:
    return _bounded(log_scale), log_scale >= MOST


def _bounded_backward(at_bound: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(at_bound & (gradient < 0), 0, gradient),)


_bounded.defvjp(_bounded_forward, _bounded_backward)


def of_y(batch: Batch) -> Batch:
    """The y of a batch as its x, with the columns that belong to it: `y_length` as `length`."""
    columns = {"x": model_call.column(batch, "y")} if "y" in batch else {}
    columns |= {name.removeprefix("y_"): c for name, c in batch.items() if name.startswith("y_")}
    return columns | {name: batch[name] for name in ("mask", "id") if name in batch}


def info_nce(logits: Array, mask: Array) -> Array:
    """InfoNCE with in-batch negatives (van den Oord et al., 2018), of each row: (B,) in nats.

    The cross-entropy of identifying each row's own positive among those of all rows of the batch
    whose `mask` (B,) is true, on all devices. `logits` (B, N) are the similarities of the rows with
    the positives of the N rows on all devices (`all_gather_batch`), such as cosines over a
    temperature.
    """
    real = all_gather_batch(mask)
    logits = jnp.where(real[None], logits, EXCLUDED)
    return optax.softmax_cross_entropy_with_integer_labels(logits, row_numbers(len(logits)))


def cosines(codes: Array, positives: Array) -> Array:
    """Cosine similarities of normalized codes (B, D) with those of all devices: (B, N)."""
    return jnp.matmul(codes, all_gather_batch(positives).T, precision="highest")


def _init(model: Any, key: Key, half: Batch) -> Variables:
    return model_call.init(model, key, half, *model_call.model_inputs(model, half))


def is_of_y(name: str) -> bool:
    """Whether a column of this name is y, or belongs to y."""
    return name == "y" or name.startswith("y_")
