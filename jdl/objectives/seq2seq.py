"""Sequence to sequence: an encoder-decoder with teacher forcing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from jdl.objectives import model_call
from jdl.objectives.language_modelling import check_tokens
from jdl.objectives.token_losses import token_loss
from jdl.sampling import generate
from jdl.types import (
    CACHE,
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Objective,
    Variables,
)


def seq2seq(
    model: Any,
    eos_id: int | None = None,
    smoothing: float = 0.0,
    max_new_tokens: int | None = None,
    start: int | Sequence[int] | None = None,
) -> Seq2Seq:
    """Sequence to sequence with an encoder-decoder (Sutskever et al., 2014), by teacher forcing.

    Tokens x (B, S) to tokens y (B, T), images x (B, H, W, C) to captions y, or waveforms x (B, S)
    to what is said. The columns `length` (B,) and `y_length` (B,) are the numbers of real tokens or
    samples; the last real token of y is `eos_id`. The decoder begins with `start`, one token or
    several, by default `eos_id`: they are given to it, and not learned. Of an encoder-decoder of
    `jdl.weights.from_pretrained` both are by default those of its files. In training the model
    predicts each token from the true tokens before it (teacher forcing): `model(x, y_before)` gives
    logits (B, T, vocabulary). The loss is the cross-entropy with label smoothing `smoothing`;
    metrics are accuracy and perplexity. Predictions are made by greedy decoding of up to
    `max_new_tokens` tokens, by default as many as the model's `max_length` permits. For that the
    model has the methods `encode(x)`, which may ask for `mask`, and `decode(encoded, y, mask,
    decode=...)`, like `T5`, `Captioner` and `Whisper`.
    """
    model_call.require_methods("seq2seq", model, "encode", "decode")
    eos_id, given = _end_and_start(model, eos_id, start)
    first = tuple(given) if isinstance(given, Sequence) else (given,)
    limit = model.max_length - len(first) + 1
    if not first or limit < 1:
        raise Error(f"The decoder begins with 1 to {model.max_length} tokens, not start={start}.")
    tokens = limit if max_new_tokens is None else max_new_tokens
    if not 1 <= tokens <= limit:
        raise Error(
            f"The model decodes 1 token or more, and {limit} tokens at most, and "
            f"max_new_tokens={tokens} is not of these: None is the most; for more raise the "
            "model's max_length."
        )
    return Seq2Seq(model, eos_id, smoothing, tokens, first)


def _end_and_start(
    model: Any, eos_id: int | None, start: int | Sequence[int] | None
) -> tuple[int, int | Sequence[int]]:
    """`eos_id` and `start`: the given ones, else those that the model was pretrained with."""
    known = getattr(model, "decoder_tokens", None)
    eos_id = known.eos if eos_id is None and known else eos_id
    files = "the model's generation_config.json and config.json"
    if eos_id is None:
        raise Error(
            "seq2seq needs the token with which y ends, eos_id=tokenizer.eos_id: "
            + (f"{files} name none, or several." if known else "it has no default.")
        )
    if start is None:
        start = known.start if known else eos_id
    if start is None:
        raise Error(
            f"There is no decoder_start_token_id in {files}: give start=..., the token with which "
            "its decoder begins (T5: that of padding, 0)."
        )
    return eos_id, start


@dataclass(frozen=True, eq=False)
class Seq2Seq(Objective):
    """Sequence to sequence; see `seq2seq`. It decodes with the KV cache of the model's decoder."""

    model: Any
    eos_id: int
    smoothing: float
    max_new_tokens: int
    start: tuple[int, ...]

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        return model_call.init(self.model, key, batch, *self._inputs(batch))

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the real tokens of y, and the metrics."""
        inputs = self._inputs(batch)
        logits, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        mask = model_call.time_mask(batch, "y_length", "y")
        logits = logits[:, len(self.start) - 1 :]
        return token_loss(logits, batch["y"], mask, model_state, smoothing=self.smoothing)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The tokens (B, max_new_tokens) by greedy decoding; after `eos_id` all are `eos_id`."""
        tokens = generate(
            self,
            variables,
            self._start(batch),
            self.max_new_tokens,
            eos_id=self.eos_id,
            batch=batch,
        )
        return {"tokens": tokens}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if y, or x of two axes, does not hold tokens of the model's vocabulary."""
        output_shape = partial(model_call.output_shape, self.model, spec, self._inputs)
        x = model_call.column(spec)
        tokens = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer)
        columns = ("x", "y") if tokens else ("y",)
        check_tokens(spec, bounds, columns, output_shape)

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
        """x, and y shifted right: `start`, then all tokens but the last (teacher forcing)."""
        x, y = model_call.column(batch), model_call.column(batch, "y")
        return x, jnp.concatenate([self._start(batch).astype(y.dtype), y[:, :-1]], 1)

    def _start(self, batch: Batch) -> Array:
        """The decoder's first tokens (B, len(start)), the same for all rows."""
        rows = model_call.column(batch).shape[0]
        return jnp.tile(jnp.asarray(self.start, jnp.int32)[None], (rows, 1))
