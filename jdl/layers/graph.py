"""Sums along the edges of graphs: rows (B, ...) of nodes (B, N, F) and edges (B, E, 2), padded by edges of -1."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def ends(x: jax.Array, edges: jax.Array, side: int) -> jax.Array:
    """What stands at the edges' senders (`side` 0) or receivers (1): x (B, N, ...) to (B, E, ...); 0 for padding."""
    rows, nodes = x.shape[:2]
    flat = x.reshape(rows * nodes, *x.shape[2:])
    found = flat.at[_places(edges, side, nodes).ravel()].get(mode="fill", fill_value=0)
    return found.reshape(rows, -1, *x.shape[2:])


def summed(messages: jax.Array, edges: jax.Array, nodes: int) -> jax.Array:
    """The sum of the messages (B, E, ...) that each node receives: (B, N, ...)."""
    rows = len(messages)
    flat = messages.reshape(-1, *messages.shape[2:])
    found = jax.ops.segment_sum(flat, _places(edges, 1, nodes).ravel(), rows * nodes)
    return found.reshape(rows, nodes, *messages.shape[2:])


def softmax(scores: jax.Array, edges: jax.Array, nodes: int) -> jax.Array:
    """The scores (B, E, H) of edges as weights that sum to 1 over all that a node receives; 0 for padding."""
    flat = scores.reshape(-1, scores.shape[-1])
    greatest = jax.ops.segment_max(flat, _places(edges, 1, nodes).ravel(), len(scores) * nodes)
    greatest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(greatest), greatest, 0))
    greatest = ends(greatest.reshape(len(scores), nodes, -1), edges, 1)
    weights = jnp.where(real(edges)[:, :, None], jnp.exp(scores - greatest), 0)
    total = ends(summed(weights, edges, nodes), edges, 1)
    return weights / jnp.where(total > 0, total, 1)


def degrees(edges: jax.Array, nodes: int) -> jax.Array:
    """How many edges each node receives: (B, N) of float32."""
    return summed(real(edges).astype(jnp.float32), edges, nodes)


def real(edges: jax.Array) -> jax.Array:
    """Which edges are no padding: (B, E)."""
    return edges[:, :, 1] >= 0


def _places(edges: jax.Array, side: int, nodes: int) -> jax.Array:
    """The edges' ends among the nodes of all rows, (B, E); padding is behind the last, where it is dropped."""
    rows = len(edges)
    first = nodes * jnp.arange(rows, dtype=edges.dtype)[:, None]
    return jnp.where(real(edges), edges[:, :, side] + first, rows * nodes)
