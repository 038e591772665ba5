"""Sequence to sequence: an encoder-decoder with teacher forcing, and CTC."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.objectives import model_call
from jdl.objectives.language_modelling import check_tokens, token_loss
from jdl.sampling import generate
from jdl.types import (
    CACHE,
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


def seq2seq(
    model: Any, eos_id: int, smoothing: float = 0.0, max_new_tokens: int | None = None
) -> Seq2Seq:
    """Sequence to sequence with an encoder-decoder (Sutskever et al., 2014), by teacher forcing.

    Tokens x (B, S) to tokens y (B, T). The columns `length` (B,) and `y_length` (B,) are the
    numbers of real tokens; the last real token of y is `eos_id`, which is also the decoder's first
    input. In training the model predicts each token from the true tokens before it (teacher
    forcing): `model(x, y_before)` gives logits (B, T, vocabulary). The loss is the cross-entropy
    with label smoothing `smoothing`; metrics are accuracy and perplexity. Predictions are made by
    greedy decoding of up to `max_new_tokens` tokens, by default the model's `max_length`. For that
    the model has the methods `encode(x)`, which may ask for `mask`, and `decode(encoded, y,
    mask, decode=...)`, like `T5`.
    """
    model_call.require_methods("seq2seq", model, "encode", "decode")
    limit = model.max_length
    if max_new_tokens and max_new_tokens > limit:
        raise Error(
            f"The model decodes {limit} tokens at most, and max_new_tokens={max_new_tokens} is "
            "more: reduce it, or raise the model's max_length."
        )
    return Seq2Seq(model, eos_id, smoothing, max_new_tokens or limit)


@dataclass(frozen=True, eq=False)
class Seq2Seq(Objective):
    """Sequence to sequence; see `seq2seq`. It decodes with the KV cache of the model's decoder."""

    model: Any
    eos_id: int
    smoothing: float
    max_new_tokens: int

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        return model_call.init(self.model, key, batch, *self._inputs(batch))

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the real tokens of y, and the metrics."""
        inputs = self._inputs(batch)
        logits, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        mask = model_call.time_mask(batch, "y_length", "y")
        return token_loss(logits, batch["y"], mask, model_state, smoothing=self.smoothing)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The tokens (B, max_new_tokens) by greedy decoding; after `eos_id` all are `eos_id`."""
        first = jnp.full((len(batch["x"]), 1), self.eos_id, jnp.int32)
        tokens = generate(
            self, variables, first, self.max_new_tokens, eos_id=self.eos_id, batch=batch
        )
        return {"tokens": tokens}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x and y do not hold tokens of the model's vocabulary."""
        output_shape = partial(model_call.output_shape, self.model, spec, self._inputs)
        check_tokens(spec, bounds, ("x", "y"), output_shape)

    @property
    def max_length(self) -> int:
        """The most tokens that the decoder's KV cache holds."""
        return self.model.max_length

    def init_cache(self, variables: Variables, batch: Batch) -> Any:
        """The encoder's output for x; the decoder's first call fills the KV cache from it."""
        inputs = (model_call.column(batch),)
        encoded = model_call.evaluate(self.model, variables, batch, inputs, "encode")
        return {"encoded": encoded, "mask": model_call.time_mask(batch)}

    def next_logits(self, variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        """The logits (B, t, vocabulary) after each of the next tokens (B, t), and the new cache."""
        kv_cache = {name: v for name, v in cache.items() if name == CACHE}
        inputs = cache.get("encoded"), tokens, cache["mask"]
        logits, kv_cache = model_call.next_logits(
            self.model, variables, kv_cache, *inputs, method="decode"
        )
        return logits, {"mask": cache["mask"], **kv_cache}

    def _inputs(self, batch: Batch) -> tuple[Array, ...]:
        """x, and y shifted right: `eos_id`, then all tokens but the last (teacher forcing)."""
        y = jnp.pad(model_call.column(batch, "y"), ((0, 0), (1, 0)), constant_values=self.eos_id)
        return model_call.column(batch), y[:, :-1]


def ctc(model: Any, frames: int = 1) -> CTC:
    """CTC, connectionist temporal classification (Graves et al., 2006).

    For labels without an alignment: x (B, T, ...) to labels y (B, U) from 1 to K - 1; the label 0
    is the blank. The columns `length` (B,) and `y_length` (B,) are the numbers of real steps and
    labels. The model gives `frames` distributions over K labels at each step: logits (B, T, frames
    * K). A model may also shorten time: T / 4 outputs have 4 steps each. Of images x (B, H, W, C)
    with a column `width` (B,), the number of real columns of pixels, time is the width, T = W. The
    loss is the mean over the rows of the negative log-likelihood, in nats. Metrics, in evaluation,
    of greedy (best path) decoding: error_rate, the edit distance over the number of labels, and
    exact_match, the share of the rows without an error.
    """
    return CTC(model, frames)


@dataclass(frozen=True, eq=False)
class CTC(model_call.ModelObjective):
    """Connectionist temporal classification; see `ctc`."""

    frames: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean CTC loss of the rows in nats, and in evaluation the decoding's errors."""
        logits, real, model_state = self._apply(variables, batch, key, train)
        labels, mask = batch["y"], batch.get("mask")
        counts = batch.get("y_length", jnp.full(len(labels), labels.shape[1], jnp.int32))
        padding = jnp.arange(labels.shape[1])[None] >= counts[:, None]
        losses = optax.ctc_loss(
            logits, 1.0 - real.astype(logits.dtype), labels, padding.astype(logits.dtype)
        )
        scores: Metrics = {}
        if not train:
            decoded, lengths = best_path(logits, real)
            pairs = decoded, lengths, labels, counts
            scores["error_rate"] = metrics.error_rate(*pairs, mask)
            scores["exact_match"] = metrics.exact_match(*pairs, mask)
        return LossOutput(Mean.of(losses, mask), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The labels (B, T * frames) of the best path, and their number, length (B,)."""
        logits, real, _ = self._apply(variables, batch, jax.random.key(0), False)
        labels, lengths = best_path(logits, real)
        return {"labels": labels, "length": lengths}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model does not give outputs for every step and label."""
        shape = model_call.output_shape(self.model, spec)
        if len(shape) != 3 or shape[-1] % self.frames:
            raise Error(
                f"ctc needs logits (B, T, {self.frames} * K) for every step, but the model gives "
                f"{shape}."
            )
        steps, _ = model_call.time_steps(spec)
        if steps is not None and steps % shape[1]:
            raise Error(
                f"ctc needs an output for every step, or for every so many, but the model gives "
                f"{shape[1]} for {steps} steps: pad x, so that its steps are a multiple of these."
            )
        labels = shape[-1] // self.frames
        least, greatest = bounds.get("y", (0, 0))
        if least < 0 or greatest >= labels:
            raise Error(
                f"The labels y are from {least} to {greatest}, but the model has {labels} outputs, "
                "of which 0 is the blank: correct the labels, or the model's outputs."
            )
        model_call.column(spec, "y")

    def _apply(
        self, variables: Variables, batch: Batch, key: Key, train: bool
    ) -> tuple[Array, Array, Variables]:
        """Logits (B, T * frames, K), the mask of the real frames, and the new model state."""
        inputs = model_call.model_inputs(self.model, batch)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        logits = out.reshape(out.shape[0], out.shape[1] * self.frames, -1)
        real = model_call.real_outputs(batch, *out.shape[:2])
        return logits, jnp.repeat(real, self.frames, 1), model_state


def best_path(logits: Array, real: Array) -> tuple[Array, Array]:
    """Greedy CTC decoding: the best label of each real frame, repeats merged, blanks removed.

    Logits (B, T, K) and `real` (B, T) to labels (B, T), padded with 0, and their number (B,).
    """
    best = jnp.where(real, logits.argmax(-1), 0)
    before = jnp.pad(best, ((0, 0), (1, 0)))[:, :-1]
    emitted = (best != before) & (best != 0)
    order = jnp.argsort(~emitted, axis=1, stable=True)
    lengths = emitted.sum(1, dtype=jnp.int32)
    labels = jnp.take_along_axis(best, order, 1)
    return jnp.where(jnp.arange(best.shape[1])[None] < lengths[:, None], labels, 0), lengths
