"""Sequence tagging by a linear-chain conditional random field (CRF) on a model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl import metrics
from jdl.layers.crf import FORBIDDEN, Transitions, log_partition, viterbi
from jdl.metrics.spans import bio, is_bio
from jdl.objectives import model_call
from jdl.objectives.classification import check_labels, known_labels
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

PARAMS = "crf"  # the name of the transitions' parameters, beside the model's


def crf(model: Any, tags: Sequence[str] = ()) -> CRF:
    """Sequence tagging by a linear-chain conditional random field (CRF; Lafferty et al., 2001).

    For tags that depend on their neighbors, as of parts of speech and named entities; on a
    bidirectional LSTM: Huang et al. (2015). x (B, T, ...) to logits (B, T, K), for tags y (B, T)
    from 0 to K - 1. The label -1 is unknown: the loss sums over all tags that it may be. The column
    `length` (B,) has the numbers of real steps. The CRF adds a score for each pair of neighboring
    tags, and for the first and the last tag. They are trained with the model, and begin at 0, where
    the loss is that of `classify`. The loss is the negative log-likelihood of the tags, in nats for
    each known label.

    `tags` are the names of the K tags. With BIO tags (O, B-x, I-x), I-x is predicted only after B-x
    or I-x. Predictions are label (B, T), the most likely path of tags (Viterbi), and probability
    (B, T, K), each tag's marginal. Metrics, in evaluation: accuracy, the confusion matrix, and for
    BIO tags the span F1 of `jdl.metrics.SpanF1`.
    """
    return CRF(model, tuple(tags), _constraints(tags) if is_bio(tags) else None)


@dataclass(frozen=True, eq=False)
class CRF(Objective):
    """Sequence tagging by a conditional random field; see `crf`."""

    model: Any
    tags: tuple[str, ...]
    constraints: Transitions | None  # what is added in decoding; None: nothing

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables, and transitions of zeros."""
        inputs = model_call.model_inputs(self.model, batch)
        variables = model_call.init(self.model, key, batch, *inputs)
        evaluate = partial(model_call.evaluate, self.model)
        tags = jax.eval_shape(evaluate, variables, batch).shape[-1]
        zeros = Transitions(jnp.zeros((tags, tags)), jnp.zeros(tags), jnp.zeros(tags))
        params = {"model": variables["params"], PARAMS: zeros._asdict()}
        return {**variables, "params": params}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The negative log-likelihood of each known label, and the metrics."""
        inputs, model = model_call.model_inputs(self.model, batch), model_call.of_model(variables)
        logits, model_state = model_call.apply(self.model, model, inputs, batch, key, train)
        real = model_call.real_outputs(batch, *logits.shape[:2])
        transitions, known = _transitions(variables), known_labels(batch["y"], real)
        nats = self._nats(logits, batch["y"], real, known, transitions)
        scores: Metrics = {}
        if not train:
            label = self._decode(logits, real, transitions)
            scores = self._metrics(label, batch["y"], known, logits.shape[-1])
        loss = Mean(nats.sum(), known.sum().astype(jnp.float32))
        return LossOutput(loss, scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The most likely path of tags (B, T), and the marginals (B, T, K) of each step's tag.

        The path obeys the constraints of BIO tags; the marginals are of all paths.
        """
        logits = model_call.evaluate(self.model, model_call.of_model(variables), batch)
        real, transitions = (
            model_call.real_outputs(batch, *logits.shape[:2]),
            _transitions(variables),
        )

        def total(logits: Array) -> Array:
            return log_partition(logits, real, transitions).sum()

        label = self._decode(logits, real, transitions)
        return {"label": label, "probability": jax.grad(total)(logits)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model does not give logits of all tags for each step."""
        shape = model_call.output_shape(self.model, spec)
        if len(shape) != 3:
            raise Error(
                f"crf needs logits (B, T, K) for every step, but the model gives {shape}: an RNN "
                "does with return_sequences=True."
            )
        if self.tags and len(self.tags) != shape[-1]:
            raise Error(
                f"There are {len(self.tags)} tags, but the model has {shape[-1]} outputs: give it "
                "one for each."
            )
        check_labels(spec, bounds, shape)

    def _nats(
        self, logits: Array, labels: Array, real: Array, known: Array, transitions: Transitions
    ) -> Array:
        """The negative log-likelihood of the known labels of each row, (B,).

        It is the log partition less that of the paths alone that have the known labels.
        """
        possible = ~known[..., None] | jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        of_labels = log_partition(jnp.where(possible, logits, FORBIDDEN), real, transitions)
        nats = log_partition(logits, real, transitions) - of_labels
        return jnp.where(known.any(1), nats, 0)

    def _decode(self, logits: Array, real: Array, transitions: Transitions) -> Array:
        if self.constraints is not None:
            transitions = jax.tree.map(jnp.add, transitions, self.constraints)
        return viterbi(logits, real, transitions)

    def _metrics(self, label: Array, y: Array, known: Array, classes: int) -> Metrics:
        y = y.clip(0)
        scores: Metrics = {
            "accuracy": Mean.of((label == y).astype(jnp.float32), known),
            "confusion": metrics.Confusion.of(label, y, classes, known),
        }
        if self.constraints is not None:
            scores["span"] = metrics.SpanF1.of(label, y, self.tags, known)
        return scores


def _constraints(tags: Sequence[str]) -> Transitions:
    """What decoding adds to the transitions of BIO tags: I-x comes only after B-x or I-x."""
    scheme = bio(tags)
    inside = (scheme.type_of >= 0) & ~scheme.begins
    begun = {scheme.types[n] for n in scheme.type_of[scheme.begins]}
    if missing := set(scheme.types) - begun:
        raise Error(f"There is a tag I-{min(missing)}, but no B-{min(missing)}: add it.")
    same = scheme.type_of[:, None] == scheme.type_of[None]
    between = np.where(inside[None] & ~same, FORBIDDEN, 0).astype(np.float32)
    start = np.where(inside, FORBIDDEN, 0).astype(np.float32)
    return Transitions(*map(jnp.asarray, (between, start, np.zeros(len(tags), np.float32))))


def _transitions(variables: Variables) -> Transitions:
    """The scores of the transitions, in float32 like the logits."""
    scores = variables["params"][PARAMS]
    return Transitions(**{name: score.astype(jnp.float32) for name, score in scores.items()})
