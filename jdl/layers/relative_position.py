"""Relative position bias: what attention adds to its logits by the distance of two tokens."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class RelativePositionBias(nn.Module):
    """Relative position bias of attention (T5, Raffel et al., 2020): a number for each head.

    It is learned for each bucket of distances from the query to the key. Half of the `buckets` are
    of one distance each, and the others grow geometrically, up to `max_distance` and beyond. If not
    `causal`, keys before the query and those after it have half of the buckets each; otherwise all
    keys after it are in the bucket of distance 0, and attention must not see them.
    """

    heads: int
    buckets: int = 32
    max_distance: int = 128
    causal: bool = False

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Positions of queries (T,) and of keys (S,) to the bias (1, heads, T, S).

        Queries (B, T) have a bias (B, heads, T, S).
        """
        init = nn.initializers.normal(0.02)
        table = self.param("table", init, (self.buckets, self.heads))
        queries = queries if queries.ndim == 2 else queries[None]
        distances = keys[None, None] - queries[:, :, None]
        size = self.buckets if self.causal else self.buckets // 2
        bucket_of = jnp.asarray(distance_buckets(size, self.max_distance))
        before = -distances if self.causal else jnp.abs(distances)
        bucket = bucket_of[before.clip(0, self.max_distance)]
        if not self.causal:
            bucket += jnp.where(distances > 0, size, 0)
        return table[bucket].transpose(0, 3, 1, 2)


def distance_buckets(buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance from 0 to `max_distance`, (max_distance + 1,).

    In float32, as T5 was trained: of other roundings, a distance at a border has another bucket.
    """
    exact = buckets // 2
    distances = np.arange(max_distance + 1)
    ratio = np.log(np.maximum(distances, exact).astype(np.float32) / np.float32(exact))
    scale = np.float32(math.log(max_distance / exact))
    further = exact + (ratio / scale * np.float32(buckets - exact)).astype(np.int32)
    return np.where(distances < exact, distances, np.minimum(further, buckets - 1)).astype(np.int32)
