"""Metrics of recommendation by leave-one-out: one item is to be found among many."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jdl.types import Array, Mean


def recall_at_k(scores: Array, labels: Array, k: int, mask: Array | None = None) -> Mean:
    """Recall at k (hit rate): how often the item to be found, labels (B,), is among the k best.

    `scores` (B, items) of items that cannot be recommended, as the user has them already, are
    -inf. Among equal scores the order is random, and this its expectation: a model that gives all
    items one score is not perfect.
    """
    return _expected_gain(scores, labels, np.ones(k, np.float32), mask)


def ndcg_at_k(scores: Array, labels: Array, k: int, mask: Array | None = None) -> Mean:
    """NDCG at k (normalized discounted cumulative gain; Jarvelin and Kekalainen, 2002).

    Of the one item to be found, labels (B,): 1 / log2(1 + its place), and 0 after place k. Scores
    and ties are those of `recall_at_k`.
    """
    return _expected_gain(scores, labels, 1 / np.log2(np.arange(k, dtype=np.float32) + 2), mask)


def _expected_gain(scores: Array, labels: Array, gains: np.ndarray, mask: Array | None) -> Mean:
    """The mean gain of the label's place by its score; where scores are equal, the expected one."""
    score = jnp.take_along_axis(scores, labels[:, None], 1)
    above = (scores > score).sum(-1)
    equal = (scores == score).sum(-1).clip(1)  # the label itself included; NaN is not equal
    sums = jnp.asarray(np.append(0, np.cumsum(gains)), jnp.float32)  # of the first n places
    first, end = (sums[jnp.minimum(place, len(gains))] for place in (above, above + equal))
    found = jnp.where(score[:, 0] > -jnp.inf, (end - first) / equal.astype(jnp.float32), 0)
    found = jnp.where(jnp.isnan(scores).any(-1), jnp.nan, found)  # diverged, and not just wrong
    return Mean.of(found, mask)
