"""Monotonic alignment of tokens with frames, and the length regulator of text to speech."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

IMPOSSIBLE = -1e30  # a score


def monotonic_alignment(scores: jax.Array, tokens: jax.Array, frames: jax.Array) -> jax.Array:
    """Monotonic alignment search (Kim et al., 2020): the durations (B, S) of tokens, in frames.

    `scores` (B, S, F) say how well each frame fits each token, as log-likelihoods. Of all ways to
    go through the first `tokens` (B,) of a row within its first `frames` (B,), one after another
    and at least a frame for each, the best one is found, by dynamic programming (Viterbi). Other
    tokens have the duration 0. A row with fewer frames than tokens has no such way, and any
    durations.
    """
    rows, count, length = scores.shape
    scores = scores.astype(jnp.float32)
    before_first = jnp.full((rows, 1), IMPOSSIBLE)
    at_first = jnp.arange(count) == 0
    best = jnp.where(at_first[None], scores[:, :, 0], IMPOSSIBLE)

    def forward(best: jax.Array, frame: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The best score of a way to each token, and whether it comes from the token before."""
        moved = jnp.concatenate([before_first, best[:, :-1]], 1)
        return jnp.maximum(best, moved) + frame, moved > best

    _, comes_from_before = lax.scan(forward, best, jnp.moveaxis(scores[:, :, 1:], 2, 0))

    def backward(token: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
        """The token (B,) of a frame, from the last one to the first, and that of the one before."""
        t, moved = step
        real = t < frames
        here = jnp.where(real, token, count)
        moves = jnp.take_along_axis(moved, token[:, None], 1)[:, 0] & real
        return (token - moves.astype(token.dtype)).clip(0), here

    first = jnp.zeros((1, rows, count), bool)  # of the first frame, which none comes before
    steps = (jnp.arange(length), jnp.concatenate([first, comes_from_before]))
    _, places = lax.scan(backward, (tokens - 1).clip(0), steps, reverse=True)
    return (places[:, :, None] == jnp.arange(count)[None, None]).sum(0, dtype=jnp.int32)


def token_of_frames(durations: jax.Array, frames: int) -> jax.Array:
    """The length regulator (Ren et al., 2019): which token each frame is of, (B, frames).

    Of durations (B, S) in frames. It is S after the last token. What frames get is a gather of it.
    """
    ends = jnp.cumsum(durations, 1)
    return (jnp.arange(frames)[None, :, None] >= ends[:, None]).sum(2, dtype=jnp.int32)
