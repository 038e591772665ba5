"""Metrics of sequences: edit distance, error rates and perplexity."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.types import Array, Mean


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
