"""Cross-entropy of tokens: of all logits at once, or chunk by chunk of time steps."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.types import Array, LossOutput, Mean, Metrics, Variables


class TokenScores(NamedTuple):
    """What the logits of each token give, (B, T) each."""

    nats: Array  # the cross-entropy
    loss: Array  # with label smoothing and z-loss
    correct: Array  # 1 where the token is the most probable one


def token_scores(
    logits: Array, targets: Array, smoothing: float = 0.0, z_loss: float = 0.0
) -> TokenScores:
    """Scores of logits (B, T, K) at targets (B, T).

    `smoothing` is label smoothing. `z_loss` is the weight of the squared log of the softmax's
    normalizer (z-loss; PaLM, Chowdhery et al., 2022: 1e-4), which keeps logits from drifting.
    """
    nats = loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(-1)
        loss = (1 - smoothing) * nats + smoothing * uniform
    if z_loss:
        loss = loss + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return TokenScores(nats, loss, (logits.argmax(-1) == targets).astype(jnp.float32))


def chunked_token_scores(
    head: Callable[[Array], Array], hidden: Array, targets: Array, chunk: int, z_loss: float = 0.0
) -> TokenScores:
    """Chunked cross-entropy: `token_scores` that never holds all logits (as in Cut Cross-Entropy).

    The `head` makes logits (B, chunk, K) of hidden states (B, chunk, width), of `chunk` time steps
    at once, and again in the backward pass. So memory is that of one chunk's logits, for the price
    of one more product with the head. (Wijmans et al., 2025, go down to single tiles.)
    """
    rows, steps = targets.shape
    chunks = -(-steps // chunk)

    def cut(x: Array) -> Array:
        """(B, T, ...) to (chunks, B, chunk, ...); rows stay whole on their devices."""
        x = jnp.pad(x, ((0, 0), (0, chunks * chunk - steps), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(rows, chunks, chunk, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def of_chunk(_: None, part: tuple[Array, Array]) -> tuple[None, TokenScores]:
        return None, token_scores(head(part[0]), part[1], z_loss=z_loss)

    _, scores = jax.lax.scan(of_chunk, None, (cut(hidden), cut(targets)))
    nats, loss, correct = (s.swapaxes(0, 1).reshape(rows, -1)[:, :steps] for s in scores)
    return TokenScores(nats, loss, correct)


def loss_of_scores(
    scores: TokenScores, mask: Array | None, model_state: Variables, bytes_per_token: float = 0.0
) -> LossOutput:
    """The mean loss of tokens where `mask`, (B,) or (B, T), holds; accuracy and perplexity.

    With `bytes_per_token` there are also bits per byte. They and perplexity are of the
    cross-entropy alone.
    """
    mean = Mean.of(scores.nats, mask)
    found: Metrics = {
        "accuracy": Mean.of(scores.correct, mask),
        "perplexity": metrics.Perplexity(mean),
    }
    if bytes_per_token:
        found["bits_per_byte"] = Mean(mean.total / log(2), mean.count * bytes_per_token)
    return LossOutput(Mean.of(scores.loss, mask), found, model_state)


def token_loss(
    logits: Array,
    targets: Array,
    mask: Array | None,
    model_state: Variables,
    smoothing: float = 0.0,
) -> LossOutput:
    """Cross-entropy of logits (B, T, K) at targets (B, T), with accuracy and perplexity."""
    return loss_of_scores(token_scores(logits, targets, smoothing), mask, model_state)
