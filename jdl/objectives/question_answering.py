"""Extractive question answering: the span of a text that answers a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.objectives import model_call
from jdl.objectives.supervised import given, target_column
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Metrics, Variables

EXCLUDED = -1e9  # the logit of a token that no answer begins or ends with


def extractive_qa(model: Any, max_answer_length: int = 30, no_answer: bool = False) -> ExtractiveQA:
    """Extractive question answering by start and end pointers (BERT; Devlin et al., 2019).

    Tokens x (B, T) of a question and of a text, the context, to logits (B, T, 2): how likely the
    answer begins, and ends, with each token. The column `token_type` (B, T) is above 0 for the
    tokens of the context, and the others are left out of both softmaxes; y (B, 2) has the first and
    the last token of the answer. `jdl.data.question_answers` makes such data. With `no_answer` also
    token 0 is a pointer, for questions that the context does not answer (SQuAD 2.0).

    The loss is the mean cross-entropy of the two pointers, in nats. Predictions: start and end
    (B,), of the most likely span of at most `max_answer_length` tokens, and score (B,), its
    probability. Metrics: exact_match, the share of the rows with the right tokens as start and end,
    and f1, of the tokens in the spans; for SQuAD's, of texts, see `jdl.objectives.answer_scores`.
    """
    if max_answer_length < 1:
        raise Error(f"max_answer_length, in tokens, must be at least 1, not {max_answer_length}.")
    return ExtractiveQA(model, max_answer_length, no_answer)


@dataclass(frozen=True, eq=False)
class ExtractiveQA(model_call.ModelObjective):
    """Extractive question answering; see `extractive_qa`."""

    max_answer_length: int
    no_answer: bool

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the start and of the end, and the metrics."""
        inputs = model_call.model_inputs(self.model, batch)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        log_probs, y, mask = self._log_probs(out, batch), batch["y"], batch.get("mask")
        of_targets = jnp.take_along_axis(log_probs, y[:, None], 1)[:, 0]
        start, end, _ = self._best_span(log_probs)
        scores: Metrics = {
            "exact_match": Mean.of((start == y[:, 0]) & (end == y[:, 1]), mask),
            "f1": Mean.of(overlap_f1(start, end, y[:, 0], y[:, 1]), mask),
        }
        return LossOutput(Mean.of(-of_targets.mean(-1), mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The first and the last token of the most likely span, and its probability, (B,) each."""
        out = model_call.evaluate(self.model, variables, batch)
        start, end, log_prob = self._best_span(self._log_probs(out, batch))
        return {"start": start, "end": end, "score": jnp.exp(log_prob)}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model or the data do not fit."""
        x, token_type = model_call.column(spec), model_call.column(spec, "token_type")
        shape = model_call.output_shape(self.model, spec)
        if shape != (*x.shape[:2], 2):
            raise Error(
                f"extractive_qa needs two logits for every token, {(*x.shape[:2], 2)}, but the "
                f"model gives {shape}: BERT does with outputs=2 and pool=False."
            )
        if token_type.shape != x.shape[:2]:
            raise Error(f"token_type must be one number a token, but is {given(token_type)}.")
        known, (_, last) = getattr(self.model, "token_types", 0), bounds.get("token_type", (0, 0))
        if 0 < known <= last:
            raise Error(
                f"The token types are 0 to {last}: the model needs token_types={int(last) + 1}."
            )
        needed = f"The answers y must be two whole numbers a row, {(len(x), 2)}: first, last token"
        y = target_column(spec, needed)
        if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != (len(x), 2):
            raise Error(f"{needed}; but y is {given(y)}.")
        least, greatest = bounds.get("y", (1, 1))
        if least < 0 or greatest >= x.shape[1]:
            raise Error(
                f"The answers y are tokens {least} to {greatest}, but a row has {x.shape[1]}."
            )
        if least == 0 and not self.no_answer:
            raise Error(
                "Some questions have no answer in their context (y is 0): "
                "extractive_qa(model, no_answer=True), or leave them out."
            )

    def _log_probs(self, logits: Array, batch: Batch) -> Array:
        """The log-probabilities (B, T, 2) of each token as the start and as the end."""
        pointed = batch["token_type"] > 0
        if self.no_answer:
            pointed = pointed.at[:, 0].set(True)
        return jax.nn.log_softmax(jnp.where(pointed[..., None], logits, EXCLUDED), axis=1)

    def _best_span(self, log_probs: Array) -> tuple[Array, Array, Array]:
        """The start, the end and the log-probability (B,) of the most likely span.

        One that begins at token 0, no answer, also ends there.
        """
        steps = log_probs.shape[1]
        length = jnp.arange(min(self.max_answer_length, steps))
        ends = jnp.pad(log_probs[..., 1], ((0, 0), (0, len(length))), constant_values=EXCLUDED)
        at = jnp.arange(steps)[:, None] + length[None]
        spans = log_probs[..., :1] + ends[:, at]  # (B, T, max_answer_length)
        allowed = (jnp.arange(steps) > 0)[:, None] | (length == 0)[None]
        spans = jnp.where(allowed[None], spans, EXCLUDED)
        flat = spans.reshape(spans.shape[0], -1)
        best = flat.argmax(-1).astype(jnp.int32)
        start = jax.lax.div(best, jnp.int32(len(length)))  # not `//`: of `%` ONNX has another kind
        return start, start + best - start * len(length), flat.max(-1)


def overlap_f1(start: Array, end: Array, true_start: Array, true_end: Array) -> Array:
    """F1 (B,) of the tokens of the predicted spans, by those of the true ones; ends included."""
    common = jnp.minimum(end, true_end) - jnp.maximum(start, true_start) + 1
    tokens = (end - start + 1) + (true_end - true_start + 1)
    return 2 * common.clip(0).astype(jnp.float32) / tokens.astype(jnp.float32)
