"""Metrics of sequences: edit distance, error rates and perplexity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.types import Array, Mean

START, NOWHERE = -1, -2  # numbers that are no place in a row of letters


def edit_distance(
    predicted: Array, predicted_length: Array, labels: Array, label_length: Array
) -> Array:
    """Edit distance (Levenshtein, 1966) of each row: (B,) of int32.

    The fewest insertions, deletions and substitutions between the first `predicted_length` (B,)
    tokens of `predicted` (B, T) and the first `label_length` (B,) of `labels` (B, U).
    """
    return jax.vmap(_edit_distance)(predicted, predicted_length, labels, label_length)


def _edit_distance(
    predicted: Array, predicted_length: Array, labels: Array, label_length: Array
) -> Array:
    columns = jnp.arange(labels.size + 1)

    def next_row(distances: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        """The distances of n + 1 tokens to the first 0, 1, ... labels, from those of n."""
        n, token = step
        substituted = distances[:-1] + (labels != token).astype(distances.dtype)
        best = jnp.minimum(distances + 1, jnp.concatenate([distances[:1] + 1, substituted]))
        best = jax.lax.cummin(best - columns) + columns  # any number of deletions, all at once
        return jnp.where(n < predicted_length, best, distances), None

    distances, _ = jax.lax.scan(next_row, columns, (jnp.arange(predicted.size), predicted))
    return distances[label_length]


def error_rate(
    predicted: Array,
    predicted_length: Array,
    labels: Array,
    label_length: Array,
    mask: Array | None = None,
) -> Mean:
    """Error rate of sequences: the sum of edit distances over the sum of label lengths.

    On words it is the word error rate (WER), on letters the character error rate (CER); it can be
    above 1. Only rows whose `mask` (B,) is true count. Shapes are those of `edit_distance`.
    """
    edits = edit_distance(predicted, predicted_length, labels, label_length).astype(jnp.float32)
    weight = jnp.ones(edits.shape, edits.dtype) if mask is None else mask.astype(edits.dtype)
    return Mean((weight * edits).sum(), (weight * label_length.astype(edits.dtype)).sum())


def word_error_rate(
    predicted: Array,
    predicted_length: Array,
    labels: Array,
    label_length: Array,
    space: int,
    mask: Array | None = None,
) -> Mean:
    """Word error rate (WER) of letters: the error rate of the words between the label `space`.

    Spaces before, after and beside others count nothing. Only rows whose `mask` (B,) is true count.
    Shapes are those of `edit_distance`.
    """
    letters, in_words = [], []
    for tokens, length in ((predicted, predicted_length), (labels, label_length)):
        real = jnp.arange(tokens.shape[1])[None] < length[:, None]
        letters.append(jnp.pad(tokens, ((0, 0), (0, 1))))  # a word ends where its row does
        in_words.append(jnp.pad(real & (tokens != space), ((0, 0), (0, 1))))
    ids = jax.vmap(_beginnings)(jnp.concatenate(letters, 1), jnp.concatenate(in_words, 1))
    of_predicted, of_labels = jnp.split(ids, [predicted.shape[1] + 1], 1)
    words = *_words(of_predicted, in_words[0]), *_words(of_labels, in_words[1])
    return error_rate(*words, mask)


def _beginnings(letters: Array, in_word: Array) -> Array:
    """For each letter (n,), a number of its word up to there: the same of equal beginnings only."""

    def step(carry: tuple[Array, Array, Array], place: Array) -> tuple[Any, Array]:
        before, seen, last = carry  # the beginnings before each letter so far, and that of the last
        same = (seen == letters[place]) & (before == last)
        number = jnp.where(same.any(), same.argmax(), place)
        carry = before.at[place].set(last), seen.at[place].set(letters[place])
        return (*carry, jnp.where(in_word[place], number, START)), number

    nothing = jnp.full(letters.shape, NOWHERE)
    start = nothing, nothing, jnp.asarray(START)
    _, numbers = jax.lax.scan(step, start, jnp.arange(letters.size))
    return numbers


def _words(beginnings: Array, in_word: Array) -> tuple[Array, Array]:
    """The numbers of the words (B, (n + 1) // 2), to the left, and how many there are (B,)."""
    after = jnp.pad(in_word, ((0, 0), (0, 1)))[:, 1:]
    is_last = in_word & ~after
    order = jnp.argsort(~is_last, axis=1, stable=True)
    words = jnp.take_along_axis(beginnings, order, 1)
    return words[:, : words.shape[1] // 2], is_last.sum(1, dtype=jnp.int32)


def exact_match(
    predicted: Array,
    predicted_length: Array,
    labels: Array,
    label_length: Array,
    mask: Array | None = None,
) -> Mean:
    """Exact match: the share of the sequences that are predicted without an error.

    Only rows whose `mask` (B,) is true count. Shapes are those of `edit_distance`.
    """
    width = max(predicted.shape[1], labels.shape[1])
    both = [
        jnp.pad(tokens, ((0, 0), (0, width - tokens.shape[1]))) for tokens in (predicted, labels)
    ]
    equal = (both[0] == both[1]) | (jnp.arange(width)[None] >= label_length[:, None])
    return Mean.of(equal.all(1) & (predicted_length == label_length), mask)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Perplexity:
    """Perplexity: the exponential of the mean cross-entropy of a token, in nats.

    That many equally likely tokens would be as hard to predict.
    """

    nats: Mean

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(self.nats + other.nats)

    def value(self) -> Array:
        """exp(total / count)."""
        return jnp.exp(self.nats.value())
