"""Writing sequences token by token: greedy, by chance, or by beam search; pure functions of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdl.types import Array, Batch, Decoder, Error, Key, Variables

Choose = Callable[[Key, Array], Array]  # a key and logits (B, vocabulary) to tokens (B,)


def greedy(key: Key, logits: Array) -> Array:
    """The likeliest token: logits (B, vocabulary) to (B,)."""
    return logits.argmax(-1).astype(jnp.int32)


def by_chance(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Choose:
    """A token drawn by its probability, of logits divided by `temperature`.

    `top_k` above 0 leaves only the k likeliest; `top_p` below 1 only the fewest likeliest whose probabilities sum to
    it or more (Holtzman et al., 2020).
    """
    if temperature <= 0:
        raise Error(
            f"temperature must be above 0, and {temperature} is not; for the likeliest token, choose greedily."
        )
    if top_k < 0 or not 0 < top_p <= 1:
        raise Error(
            f"top_k is 0 or more, and top_p above 0 and at most 1; given were {top_k} and {top_p}."
        )

    def choose(key: Key, logits: Array) -> Array:
        logits = logits / temperature
        falling = jnp.sort(logits, axis=-1, descending=True)
        least = falling[:, -1:]
        if 0 < top_k < logits.shape[-1]:
            least = falling[:, top_k - 1 : top_k]
        if top_p < 1:
            within = jnp.where(falling >= least, falling, -jnp.inf)
            shares = jax.nn.softmax(within)
            inside = shares.cumsum(-1) - shares < top_p  # the likelier ones do not reach it yet
            least = jnp.maximum(least, jnp.where(inside, within, jnp.inf).min(-1, keepdims=True))
        return jax.random.categorical(key, jnp.where(logits >= least, logits, -jnp.inf)).astype(
            jnp.int32
        )

    return choose


def generate(
    decoder: Decoder,
    variables: Variables,
    prompt: Array,
    tokens: int,
    choose: Choose = greedy,
    key: Key | None = None,
    end: int | None = None,
    batch: Batch | None = None,
) -> Array:
    """The `tokens` tokens that follow `prompt` (B, P), P at least 1: (B, tokens).

    `batch` holds what an encoder reads. A row that has written `end` writes nothing else any more.
    """
    _check_length(decoder, prompt.shape[1] + tokens - 1)
    logits, cache = decoder.next(variables, decoder.start(variables, batch or {}), prompt)
    key = jax.random.key(0) if key is None else key

    def chosen(n: Array, logits: Array, over: Array) -> tuple[Array, Array]:
        token = choose(jax.random.fold_in(key, n), logits)
        if end is None:
            return token, over
        token = jnp.where(over, end, token)
        return token, over | (token == end)

    def following(
        state: tuple[Array, Any, Array], n: Array
    ) -> tuple[tuple[Array, Any, Array], Array]:
        token, cache, over = state
        logits, cache = decoder.next(variables, cache, token[:, None])
        new, over = chosen(n, logits[:, -1], over)
        return (new, cache, over), token

    first, over = chosen(jnp.zeros((), jnp.int32), logits[:, -1], jnp.zeros(len(prompt), bool))
    (last, _, _), before = jax.lax.scan(following, (first, cache, over), jnp.arange(1, tokens))
    return jnp.concatenate([before.T, last[:, None]], 1)


def beam(
    decoder: Decoder,
    variables: Variables,
    prompt: Array,
    tokens: int,
    width: int = 4,
    end: int | None = None,
    batch: Batch | None = None,
    length_penalty: float = 0.0,
) -> tuple[Array, Array]:
    """The `width` likeliest continuations found by beam search, best first: (B, width, tokens), scores (B, width).

    A score is the sum of the tokens' log-probabilities, up to and with `end`, over ((5 + n) / 6) ** length_penalty
    for n tokens (Wu et al., 2016). Beams that have written `end` write nothing else any more.
    """
    if width < 1:
        raise Error(f"Beam search keeps at least 1 beam, and {width} is not that.")
    _check_length(decoder, prompt.shape[1] + tokens - 1)
    rows = len(prompt)
    logits, cache = decoder.next(variables, decoder.start(variables, batch or {}), prompt)
    vocabulary = logits.shape[-1]
    if width > vocabulary:
        raise Error(f"There are only {vocabulary} tokens to begin {width} beams with: take fewer.")

    def spread(leaf: Array) -> Array:
        return jnp.repeat(leaf, width, 0) if leaf.ndim else leaf

    scores, first = jax.lax.top_k(jax.nn.log_softmax(logits[:, -1]), width)
    written = jnp.zeros((rows, width, tokens), jnp.int32).at[:, :, 0].set(first)
    over = first == end if end is not None else jnp.zeros((rows, width), bool)
    lengths = jnp.ones((rows, width), jnp.int32)

    def following(n: Array, state: Any) -> Any:
        written, scores, lengths, over, cache = state
        last = jax.lax.dynamic_index_in_dim(written, n - 1, 2, keepdims=False)
        logits, cache = decoder.next(variables, cache, last.reshape(-1, 1))
        nats = jax.nn.log_softmax(logits[:, -1]).reshape(rows, width, vocabulary)
        if end is not None:  # a beam that is over goes on in one way, at no cost
            only_end = jnp.where(jnp.arange(vocabulary) == end, 0.0, -jnp.inf)
            nats = jnp.where(over[:, :, None], only_end[None, None], nats)
        longer = lengths + (~over).astype(jnp.int32)
        totals = scores[:, :, None] + nats
        fair = totals / _penalty(longer, length_penalty)[:, :, None]
        _, places = jax.lax.top_k(fair.reshape(rows, -1), width)
        parents, token = places // vocabulary, (places % vocabulary).astype(jnp.int32)

        def inherited(leaf: Array) -> Array:
            return jnp.take_along_axis(
                leaf, parents.reshape(rows, width, *(1,) * (leaf.ndim - 2)), 1
            )

        def cached(leaf: Array) -> Array:
            return (
                inherited(leaf.reshape(rows, width, -1)).reshape(leaf.shape) if leaf.ndim else leaf
            )

        written = jax.lax.dynamic_update_index_in_dim(inherited(written), token, n, 2)
        scores = jnp.take_along_axis(totals.reshape(rows, -1), places, 1)
        over = inherited(over) | (token == end) if end is not None else over
        return written, scores, inherited(longer), over, jax.tree.map(cached, cache)

    # The first step of each beam is of one row, and its cache is repeated after it was read.
    state = written, scores, lengths, over, jax.tree.map(spread, cache)
    written, scores, lengths, _, _ = jax.lax.fori_loop(1, tokens, following, state)
    return written, scores / _penalty(lengths, length_penalty)


def _penalty(lengths: Array, power: float) -> Array:
    return ((5 + lengths.astype(jnp.float32)) / 6) ** power


def _check_length(decoder: Decoder, tokens: int) -> None:
    if decoder.max_length is not None and tokens > decoder.max_length:
        raise Error(
            f"The model reads {decoder.max_length} tokens at most, and prompt and sample together are {tokens + 1}: ask "
            "for fewer, or train with a greater TransformerConfig.max_length."
        )
