"""How the next token is chosen: greedy decoding, temperature, top-k and nucleus sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jdl.types import Array, Error, Key

TokenSampler = Callable[[Key, Array], Array]
"""What chooses the next tokens: (key, logits (B, vocabulary)) -> tokens (B,)."""


def greedy(key: Key, logits: Array) -> Array:
    """Greedy decoding: the most likely tokens (B,) of logits (B, vocabulary)."""
    return logits.argmax(-1).astype(jnp.int32)


def sample_token(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> TokenSampler:
    """Sampling with a temperature, top-k sampling and nucleus sampling (top-p).

    Returns a `TokenSampler`, which samples from the softmax of the logits divided by `temperature`.
    `top_k` above 0 keeps only the k most likely tokens (Fan et al., 2018); `top_p` below 1 keeps
    only the nucleus, the smallest set of most likely tokens whose probabilities sum to at least
    `top_p` (Holtzman et al., 2020).
    """
    if temperature <= 0:
        raise Error(
            f"temperature must be above 0, got {temperature}: for the most likely token, decode "
            "greedily (jdl.sampling.greedy)."
        )
    if top_k < 0 or not 0 < top_p <= 1:
        raise Error(
            f"top_k must be at least 0, and top_p above 0 and at most 1; got {top_k=}, {top_p=}."
        )
    return partial(_sample_token, temperature, top_k, top_p)


def _sample_token(temperature: float, top_k: int, top_p: float, key: Key, logits: Array) -> Array:
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1] or top_p < 1:
        rows = logits.shape[0]
        logits = _allowed(logits, jnp.full(rows, top_k, jnp.int32), jnp.full(rows, top_p))
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _allowed(logits: Array, top_k: Array, top_p: Array) -> Array:
    """The logits (B, vocabulary), of which those that top-k or top-p leave out are -inf.

    `top_k` and `top_p` are (B,); 0 and 1 leave out none.
    """
    vocabulary = logits.shape[-1]
    descending = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.where((top_k > 0) & (top_k < vocabulary), top_k, vocabulary) - 1
    threshold = jnp.take_along_axis(descending, last[:, None], -1)
    candidates = jnp.where(descending >= threshold, descending, -jnp.inf)
    probabilities = jax.nn.softmax(candidates)
    before = probabilities.cumsum(-1) - probabilities  # of all more likely tokens
    nucleus = jnp.where(before < top_p[:, None], candidates, jnp.inf).min(-1, keepdims=True)
    threshold = jnp.where(top_p[:, None] < 1, jnp.maximum(threshold, nucleus), threshold)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowSamplers:
    """How the next token of each row is sampled, (B,) each: for rows of different requests.

    A row's token depends on nothing of the others. It is that of `sample_token`, with the key of
    its own seed: that which `generate` and `stream` use for its token number `count`.
    """

    temperature: Array  # 0: greedy decoding
    top_k: Array  # 0: all
    top_p: Array  # 1: all
    seed: Array  # int32
    count: Array  # tokens of the row that were generated before

    def __call__(self, logits: Array) -> Array:
        """The tokens (B,) by the logits (B, vocabulary)."""
        greedily = logits.argmax(-1).astype(jnp.int32)
        sampled = self.temperature > 0
        return jax.lax.cond(
            sampled.any(),
            lambda: jnp.where(sampled, self._sampled(logits), greedily),
            lambda: greedily,
        )

    def _sampled(self, logits: Array) -> Array:
        temperature = jnp.where(self.temperature > 0, self.temperature, 1)
        logits = logits / temperature[:, None]
        logits = jax.lax.cond(  # sorting a large vocabulary costs more than the rest
            ((self.top_k > 0) | (self.top_p < 1)).any(),
            lambda: _allowed(logits, self.top_k, self.top_p),
            lambda: logits,
        )
        draw = jax.vmap(lambda key, row: jax.random.categorical(key, row))
        keys = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))
        return draw(keys(self.seed, self.count), logits).astype(jnp.int32)
