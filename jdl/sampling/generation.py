"""Autoregressive generation with a KV cache, at once or token by token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.sampling.decoder import (
    check_vocabulary,
    checked_decoder,
    checked_prompt,
    next_logits_after,
)
from jdl.sampling.samplers import TokenSampler, greedy
from jdl.types import Array, Batch, DecodesTokens, Key, Variables

PIECE = 32  # tokens of a prompt that are read at once where the answer is streamed


def generate(
    objective: DecodesTokens,
    variables: Variables,
    prompt: Array,
    tokens: int,
    sampler: TokenSampler = greedy,
    key: Key | None = None,
    eos_id: int | None = None,
    batch: Batch | None = None,
) -> Array:
    """Autoregressive generation with a KV cache: the tokens (B, tokens) after a prompt (B, P).

    `tokens` is the number of new tokens; P is at least 1. An encoder-decoder encodes the x of
    `batch`. After its first `eos_id`, a row has only `eos_id` tokens.
    """
    prompt = checked_prompt(prompt)
    objective = checked_decoder(objective, variables, prompt.shape, tokens, batch)
    cache = objective.init_cache(variables, batch or {})
    logits, cache = objective.next_logits(variables, cache, prompt)
    check_vocabulary(prompt, logits.shape[-1])
    key = jax.random.key(0) if key is None else key

    def sample(n: Array, logits: Array, finished: Array) -> tuple[Array, Array]:
        token = sampler(jax.random.fold_in(key, n), logits)
        if eos_id is None:
            return token, finished
        token = jnp.where(finished, eos_id, token)
        return token, finished | (token == eos_id)

    def step(carry: tuple[Array, Any, Array], n: Array) -> tuple[tuple[Array, Any, Array], Array]:
        token, cache, finished = carry
        logits, cache = objective.next_logits(variables, cache, token[:, None])
        new, finished = sample(n, logits[:, -1], finished)
        return (new, cache, finished), token

    unfinished = jnp.zeros(prompt.shape[:1], bool)
    first, finished = sample(jnp.zeros((), jnp.int32), logits[:, -1], unfinished)
    (last, _, _), before = jax.lax.scan(step, (first, cache, finished), jnp.arange(1, tokens))
    return jnp.concatenate([before.T, last[:, None]], 1)


def stream(
    objective: DecodesTokens,
    variables: Variables,
    prompt: np.ndarray,
    tokens: int,
    sampler: TokenSampler = greedy,
    key: Key | None = None,
    eos_id: int | None = None,
) -> Iterator[int]:
    """Streaming generation: each of up to `tokens` tokens after a prompt (P,), when it is known.

    They are those that `generate` gives, without `eos_id` and what follows it. The prompt is read
    in pieces of fixed lengths, so that prompts of any length need no program of their own.
    """
    objective = checked_decoder(objective, variables, (1, len(prompt)), tokens, None)
    key = jax.random.key(0) if key is None else key
    cache = objective.init_cache(variables, {})
    whole = len(prompt) // PIECE * PIECE
    pieces = [*prompt[:whole].reshape(-1, PIECE), *prompt[whole:].reshape(-1, 1)]
    for piece in pieces:
        read = jnp.asarray(piece[None], jnp.int32)
        logits, cache = next_logits_after(objective, variables, cache, read)
    for n in range(tokens):
        token = int(_sample(sampler, jax.random.fold_in(key, n), logits)[0])
        if token == eos_id:
            return
        yield token
        if n + 1 < tokens:
            last = jnp.full((1, 1), token, jnp.int32)
            logits, cache = next_logits_after(objective, variables, cache, last)


_sample = partial(jax.jit, static_argnums=0)(lambda sampler, key, logits: sampler(key, logits))
