"""Language modelling: causal (next tokens) and masked (hidden tokens)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.model_keywords import signature_of
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Tokenizer,
    Variables,
)


def next_token(model: Any, bytes_per_token: float = 1.0) -> NextToken:
    """Causal language model (GPT; Radford et al., 2018): predicts each next token.

    Windows of tokens x (B, T + 1) to the model's logits (B, T, vocabulary). The loss of a token is
    the cross-entropy in nats. Where the data have a column `loss_mask` (B, T + 1), as those of
    `jdl.data.dialogues`, only its tokens are learned and measured; the others are read. Metrics:
    accuracy, perplexity, and bits per byte of text, for which `bytes_per_token` is the mean number
    of bytes of a token in these data.
    """
    return NextToken(model, bytes_per_token)


@dataclass(frozen=True, eq=False)
class NextToken(model_call.ModelObjective):
    """Causal language modelling; see `next_token`. It generates with the model's own KV cache."""

    bytes_per_token: float

    def seen(self, batch: Batch) -> Batch:
        """The batch without the last token of x, which has no next token."""
        return {**batch, "x": model_call.column(batch)[:, :-1]}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the real tokens after a row's first, and the metrics."""
        return self.loss_of(*self.outputs(variables, batch, key, train), batch, train)

    def loss_of(
        self, logits: Array, model_state: Variables, batch: Batch, train: bool
    ) -> LossOutput:
        """The loss and the metrics of the model's logits, with its state afterwards."""
        mask = self.loss_weights(logits, batch)
        return token_loss(logits, batch["x"][:, 1:], mask, model_state, self.bytes_per_token)

    def loss_weights(self, logits: Array, batch: Batch) -> Array | None:
        """Which tokens after a row's first count, (B, T) or (B,); None: all of them."""
        real = model_call.time_mask(batch)
        real = real if real is None or real.ndim == 1 else real[:, 1:]
        if "loss_mask" not in batch:
            return real
        learned = batch["loss_mask"][:, 1:].astype(bool)
        if real is None:
            return learned
        return learned & (real if real.ndim == 2 else real[:, None]).astype(bool)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x does not hold windows of tokens of the model's vocabulary."""
        x = model_call.column(spec)
        if x.ndim != 2 or x.shape[1] < 2:
            raise Error(
                f"next_token needs windows of at least 2 tokens, (B, T + 1), but x is {x.shape}."
            )
        if "loss_mask" in spec and spec["loss_mask"].shape != x.shape:
            raise Error(
                f"loss_mask says which tokens of x {x.shape} are learned, and must have its shape, "
                f"not {spec['loss_mask'].shape}."
            )
        seen = jax.eval_shape(self.seen, spec)
        check_tokens(spec, bounds, ("x",), partial(model_call.output_shape, self.model, seen))

    @property
    def max_length(self) -> int | None:
        """The most tokens that the model's KV cache holds; None where there is no limit."""
        return getattr(self.model, "max_length", None)

    def init_cache(self, variables: Variables, batch: Batch) -> Any:
        """Empty: the model creates its KV cache in the first call of `next_logits`."""
        return {}

    def next_logits(self, variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        """The logits (B, t, vocabulary) after each of the tokens (B, t), and the new KV cache."""
        return model_call.next_logits(self.model, variables, cache, tokens)

    def prefill(self, variables: Variables, tokens: Array, length: Array) -> tuple[Array, Any]:
        """Prefill: the logits (B, vocabulary) after prompts of other lengths, and the KV cache.

        A row of the tokens (B, t) has `length` of them, at least 1, and padding on its right. The
        model must have an argument `mask`, as GPT and RNN do.
        """
        mask = jnp.arange(tokens.shape[1])[None] < length[:, None]
        logits, cache = model_call.next_logits(self.model, variables, {}, tokens, mask=mask)
        last = jnp.take_along_axis(logits, (length - 1)[:, None, None], 1)
        return last[:, 0], cache

    @property
    def has_mask(self) -> bool:
        """Whether the model has an argument `mask`, which `prefill` needs."""
        return "mask" in signature_of(self.model, "__call__").parameters


def masked_token(model: Any, tokenizer: Tokenizer, mask_rate: float = 0.15) -> MaskedToken:
    """Masked language model (BERT; Devlin et al., 2019): predicts hidden tokens.

    Tokens x (B, T) to the model's logits (B, T, vocabulary). Of the real tokens a share
    `mask_rate` is selected: 80% of these are replaced by the tokenizer's mask, 10% by a random
    token, and 10% stay as they are. Loss (cross-entropy) and metrics are those of the selected
    tokens. The selection in a row depends on the row's `id`, not on its place in the batch, and in
    evaluation it is always the same.
    """
    if tokenizer.mask_id is None:
        raise Error("masked_token needs a tokenizer with a mask token, but this one has none.")
    if not 0 < mask_rate <= 1:
        raise Error(
            f"mask_rate, a share of the tokens, must be above 0 and at most 1, got {mask_rate}."
        )
    return MaskedToken(model, mask_rate, tokenizer.mask_id, tokenizer.vocab_size)


@dataclass(frozen=True, eq=False)
class MaskedToken(model_call.ModelObjective):
    """Masked language modelling; see `masked_token`."""

    mask_rate: float
    mask_token: int
    vocabulary: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the selected tokens, and the metrics."""
        x = batch["x"]
        keys = model_call.example_keys(
            stream(key, "masking") if train else jax.random.key(0), batch
        )
        masked, selected = jax.vmap(self._mask_tokens)(keys, x)
        real = model_call.time_mask(batch)
        if real is not None:
            selected = selected & (real if real.ndim == 2 else real[:, None]).astype(bool)
        inputs = model_call.model_inputs(self.model, {**batch, "x": masked})
        logits, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        return token_loss(logits, x, selected, model_state)

    def _mask_tokens(self, key: Key, tokens: Array) -> tuple[Array, Array]:
        """A row (T,) with some tokens masked or replaced, and which are to be predicted."""
        select, kind, random = (stream(key, name) for name in ("select", "kind", "random"))
        selected = jax.random.bernoulli(select, self.mask_rate, tokens.shape)
        kind = jax.random.uniform(kind, tokens.shape)
        random = jax.random.randint(random, tokens.shape, 0, self.vocabulary, tokens.dtype)
        replaced = jnp.where(kind < 0.8, jnp.asarray(self.mask_token, tokens.dtype), random)
        return jnp.where(selected & (kind < 0.9), replaced, tokens), selected

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x does not hold tokens of the model's vocabulary."""
        check_tokens(spec, bounds, ("x",), partial(model_call.output_shape, self.model, spec))


def token_loss(
    logits: Array,
    targets: Array,
    mask: Array | None,
    model_state: Variables,
    bytes_per_token: float = 0.0,
    smoothing: float = 0.0,
) -> LossOutput:
    """Cross-entropy of logits (B, T, K) at targets (B, T), with accuracy and perplexity.

    Tokens count where `mask`, (B,) or (B, T), holds. With `bytes_per_token` there are also bits per
    byte. `smoothing` is label smoothing; perplexity and bits are without it.
    """
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    mean = Mean.of(nats, mask)
    scores: Metrics = {
        "accuracy": Mean.of((logits.argmax(-1) == targets).astype(jnp.float32), mask),
        "perplexity": metrics.Perplexity(mean),
    }
    if bytes_per_token:
        scores["bits_per_byte"] = Mean(mean.total / log(2), mean.count * bytes_per_token)
    if smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(-1)
        mean = Mean.of((1 - smoothing) * nats + smoothing * uniform, mask)
    return LossOutput(mean, scores, model_state)


def check_tokens(
    spec: Batch,
    bounds: Bounds,
    columns: Sequence[str],
    output_shape: Callable[[], tuple[int, ...]],
) -> None:
    """Raises `Error` if columns do not hold tokens of the vocabulary, the model's last axis."""
    for name in columns:
        tokens = model_call.column(spec, name)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise Error(
                f"The column {name} must hold tokens, whole numbers, but it is {tokens.dtype}."
            )
    shape = output_shape()
    if len(shape) != 3:
        raise Error(
            f"The model must give logits for every token, (B, T, vocabulary), but it gives {shape}."
        )
    for name in columns:
        least, greatest = bounds.get(name, (0, shape[-1] - 1))
        if least < 0 or greatest >= shape[-1]:
            raise Error(
                f"The tokens of {name} run from {least} to {greatest}, but the model's vocabulary "
                f"is 0 to {shape[-1] - 1}: give it a vocabulary of {int(greatest) + 1}, or use "
                "another tokenizer."
            )
