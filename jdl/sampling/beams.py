"""Beam search with a KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.sampling.decoder import check_vocabulary, checked_decoder, checked_prompt
from jdl.types import Array, Batch, DecodesTokens, Error, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """The beams of a beam search, `width` for each of B rows."""

    tokens: Array  # (B, width, tokens)
    scores: Array  # (B, width): sums of log-probabilities
    lengths: Array  # (B, width): numbers of tokens, up to and including `eos_id`
    finished: Array  # (B, width): whether `eos_id` has been generated
    cache: Any  # arrays (B * width, ...): the KV cache


def beam_search(
    objective: DecodesTokens,
    variables: Variables,
    prompt: Array,
    tokens: int,
    width: int = 4,
    eos_id: int | None = None,
    batch: Batch | None = None,
    length_penalty: float = 0.0,
) -> tuple[Array, Array]:
    """Beam search with a KV cache: the `width` best continuations of a prompt (B, P), best first.

    Returns their tokens (B, width, tokens) and scores (B, width). A score is the sum of the
    log-probabilities of the n tokens up to and including `eos_id`, divided by ((5 + n) / 6) **
    length_penalty (Wu et al., 2016). After its first `eos_id`, a beam has only `eos_id`
    tokens. P is at least 1; an encoder-decoder encodes the x of `batch`.
    """
    if width < 1:
        raise Error(f"Beam search needs at least 1 beam, got width={width}.")
    prompt = checked_prompt(prompt)
    objective = checked_decoder(objective, variables, prompt.shape, tokens, batch)
    cache = objective.init_cache(variables, batch or {})
    logits, cache = objective.next_logits(variables, cache, prompt)
    check_vocabulary(prompt, logits.shape[-1])
    vocabulary = logits.shape[-1]
    if width > vocabulary:
        raise Error(
            f"The vocabulary has only {vocabulary} tokens, and width={width} is more: reduce it."
        )

    def step(n: Array, beams: Beams) -> Beams:
        last = jax.lax.dynamic_index_in_dim(beams.tokens, n - 1, 2, keepdims=False)
        logits, cache = objective.next_logits(variables, beams.cache, last.reshape(-1, 1))
        beams = Beams(beams.tokens, beams.scores, beams.lengths, beams.finished, cache)
        return _extend_beams(beams, logits[:, -1], n, eos_id, length_penalty)

    # The prompt is read once per row; the cache is then repeated for each beam of the row.
    beams = _start_beams(logits[:, -1], cache, tokens, width, eos_id)
    beams = jax.lax.fori_loop(1, tokens, step, beams)
    return beams.tokens, beams.scores / _penalty(beams.lengths, length_penalty)


def _start_beams(logits: Array, cache: Any, tokens: int, width: int, eos_id: int | None) -> Beams:
    """Beams of one token: the `width` most likely first tokens by logits (B, vocabulary)."""

    def repeat(leaf: Array) -> Array:
        return jnp.repeat(leaf, width, 0) if leaf.ndim else leaf

    rows = len(logits)
    scores, first = jax.lax.top_k(jax.nn.log_softmax(logits), width)
    written = jnp.zeros((rows, width, tokens), jnp.int32).at[:, :, 0].set(first)
    finished = first == eos_id if eos_id is not None else jnp.zeros((rows, width), bool)
    lengths = jnp.ones((rows, width), jnp.int32)
    return Beams(written, scores, lengths, finished, jax.tree.map(repeat, cache))


def _extend_beams(
    beams: Beams, logits: Array, n: Array, eos_id: int | None, length_penalty: float
) -> Beams:
    """The best beams one token longer, by the logits (B * width, vocabulary) of token n."""
    rows, width = beams.scores.shape
    vocabulary = logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits).reshape(rows, width, vocabulary)
    if eos_id is not None:  # a finished beam has one continuation, of probability 1
        only_end = jnp.where(jnp.arange(vocabulary) == eos_id, 0.0, -jnp.inf)
        log_probs = jnp.where(beams.finished[:, :, None], only_end[None, None], log_probs)
    lengths = beams.lengths + (~beams.finished).astype(jnp.int32)
    scores = beams.scores[:, :, None] + log_probs
    penalized = scores / _penalty(lengths, length_penalty)[:, :, None]
    _, best = jax.lax.top_k(penalized.reshape(rows, -1), width)
    parents, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)

    def of_parents(leaf: Array) -> Array:
        index = parents.reshape(rows, width, *(1,) * (leaf.ndim - 2))
        return jnp.take_along_axis(leaf, index, 1)

    def cache_of_parents(leaf: Array) -> Array:
        if not leaf.ndim:
            return leaf
        return of_parents(leaf.reshape(rows, width, -1)).reshape(leaf.shape)

    written = jax.lax.dynamic_update_index_in_dim(of_parents(beams.tokens), token, n, 2)
    scores = jnp.take_along_axis(scores.reshape(rows, -1), best, 1)
    finished = beams.finished
    if eos_id is not None:
        finished = of_parents(finished) | (token == eos_id)
    cache = jax.tree.map(cache_of_parents, beams.cache)
    return Beams(written, scores, of_parents(lengths), finished, cache)


def _penalty(lengths: Array, power: float) -> Array:
    return ((5 + lengths.astype(jnp.float32)) / 6) ** power
