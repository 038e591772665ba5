"""Text: the next token, and tokens that were hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.keys import stream
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
    Tokenizer,
    Variables,
)


def next_token(model: Any, bytes_a_token: float = 1.0) -> Objective:
    """Each token from those before it: x (B, T + 1) of whole numbers, the model's logits (B, T, vocabulary).

    The loss of a token is the cross-entropy in nats. Metrics: accuracy, perplexity, and bits a byte of text, for
    which `bytes_a_token` says how many bytes stand behind a token of these data.
    """

    def inputs(batch: Batch) -> tuple[Array, ...]:
        return (call.column(batch)[:, :-1],)

    def init(key: Key, batch: Batch) -> Variables:
        return call.init(model, key, *inputs(batch))

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        real = call.steps(batch)
        real = real if real is None or real.ndim == 1 else real[:, 1:]
        logits, model_state = call.apply(model, variables, inputs(batch), batch, key, train)
        return token_loss(logits, batch["x"][:, 1:], real, model_state, bytes_a_token)

    def check(batch: Batch, bounds: Bounds) -> None:
        x = call.column(batch)
        if x.ndim != 2 or x.shape[1] < 2:
            raise Error(
                f"next_token reads windows of at least 2 tokens, (B, T + 1), and x is {x.shape}."
            )
        check_tokens(batch, bounds, ("x",), lambda: call.output_shape(model, batch, inputs))

    return Objective(init, loss, check=check, decoder=call.decoder(model))


def masked_token(model: Any, tokenizer: Tokenizer, share: float = 0.15) -> Objective:
    """Hidden tokens from all others: x (B, T) of whole numbers, the model's logits (B, T, vocabulary).

    Of the real tokens a `share` is chosen to be guessed: 80% of them are replaced by the tokenizer's mask, 10% by a
    random token, and 10% stay (Devlin et al., 2019). A row's choice depends on its id, so that it is the same however
    batches are cut; in evaluation it is the same each time. Loss and metrics are those of the chosen tokens.
    """
    if tokenizer.mask is None:
        raise Error("masked_token needs a tokenizer with a mask token, and this one has none.")
    if not 0 < share <= 1:
        raise Error(
            f"share is that of the tokens to be guessed, above 0 and at most 1, and {share} is not."
        )

    def hidden(key: Key, tokens: Array) -> tuple[Array, Array]:
        """A row (T,) with some tokens replaced, and which are to be guessed."""
        chance, kind, other = (stream(key, name) for name in ("chosen", "kind", "other"))
        chosen = jax.random.bernoulli(chance, share, tokens.shape)
        kind = jax.random.uniform(kind, tokens.shape)
        random = jax.random.randint(other, tokens.shape, 0, tokenizer.size, tokens.dtype)
        replaced = jnp.where(kind < 0.8, jnp.asarray(tokenizer.mask, tokens.dtype), random)
        return jnp.where(chosen & (kind < 0.9), replaced, tokens), chosen

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        x = batch["x"]
        ids = batch.get("id", jnp.arange(len(x)))
        base = stream(key, "hidden") if train else jax.random.key(0)
        inputs, chosen = jax.vmap(hidden)(jax.vmap(jax.random.fold_in, (None, 0))(base, ids), x)
        real = call.steps(batch)
        if real is not None:
            chosen = chosen & (real if real.ndim == 2 else real[:, None]).astype(bool)
        logits, model_state = call.apply(model, variables, (inputs,), batch, key, train)
        return token_loss(logits, x, chosen, model_state)

    def check(batch: Batch, bounds: Bounds) -> None:
        check_tokens(batch, bounds, ("x",), lambda: call.output_shape(model, batch))

    return Objective(partial(call.init_from_x, model), loss, check=check)


def token_loss(
    logits: Array,
    targets: Array,
    real: Array | None,
    model_state: Variables,
    bytes_a_token: float = 0.0,
    smoothing: float = 0.0,
) -> LossOutput:
    """The cross-entropy of logits (B, T, K) at targets (B, T) where `real`, (B,) or (B, T), holds, and its metrics.

    `smoothing` of the loss's weight is spread evenly over the vocabulary; perplexity and bits are without it.
    """
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    mean = Mean.of(nats, real)
    found: Metrics = {
        "accuracy": Mean.of((logits.argmax(-1) == targets).astype(jnp.float32), real),
        "perplexity": metrics.Perplexity(mean),
    }
    if bytes_a_token:
        found["bits_per_byte"] = Mean(mean.total / log(2), mean.count * bytes_a_token)
    if smoothing:
        even = -jax.nn.log_softmax(logits).mean(-1)
        mean = Mean.of((1 - smoothing) * nats + smoothing * even, real)
    return LossOutput(mean, found, model_state)


def check_tokens(
    batch: Batch,
    bounds: Bounds,
    columns: Sequence[str],
    output_shape: Callable[[], tuple[int, ...]],
) -> None:
    """Raises `Error` where columns are not of tokens that a model with outputs of this shape knows."""
    for column in columns:
        tokens = call.column(batch, column)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise Error(
                f"The column {column} must hold tokens, whole numbers, and it is {tokens.dtype}."
            )
    shape = output_shape()
    if len(shape) != 3:
        raise Error(
            f"The model must give logits for every token, (B, T, vocabulary), and it gives {shape}."
        )
    for column in columns:
        least, greatest = bounds.get(column, (0, shape[-1] - 1))
        if least < 0 or greatest >= shape[-1]:
            raise Error(
                f"The tokens of {column} run from {least} to {greatest}, and the model knows 0 to {shape[-1] - 1}: "
                f"give it a vocabulary of {int(greatest) + 1}, or take its tokenizer."
            )
