"""Message passing on batches of graphs: gather from nodes to edges, aggregate back to nodes.

A batch has nodes (B, N, F) and edges (B, E, 2) from senders to receivers. Padding edges are -1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

SENDERS, RECEIVERS = 0, 1  # the two columns of `edges`


def gather_nodes(x: jax.Array, edges: jax.Array, side: int) -> jax.Array:
    """Gathers node features at the SENDERS or RECEIVERS of edges: (B, N, ...) to (B, E, ...).

    Padding edges get 0.
    """
    rows, nodes = x.shape[:2]
    flat = x.reshape(rows * nodes, *x.shape[2:])
    ids = _node_ids(edges, side, nodes).ravel()
    return flat.at[ids].get(mode="fill", fill_value=0).reshape(rows, -1, *x.shape[2:])


def aggregate(messages: jax.Array, edges: jax.Array, nodes: int) -> jax.Array:
    """Sum aggregation (segment sum): the sum of the messages (B, E, ...) that each node receives.

    Returns (B, nodes, ...).
    """
    rows = messages.shape[0]
    flat = messages.reshape(-1, *messages.shape[2:])
    sums = jax.ops.segment_sum(flat, _node_ids(edges, RECEIVERS, nodes).ravel(), rows * nodes)
    return sums.reshape(rows, nodes, *messages.shape[2:])


def edge_softmax(scores: jax.Array, edges: jax.Array, nodes: int) -> jax.Array:
    """Edge softmax (segment softmax): scores (B, E, H) to weights of the same shape.

    The weights of the edges that a node receives sum to 1; padding edges have weight 0.
    """
    rows, heads = scores.shape[0], scores.shape[-1]
    ids = _node_ids(edges, RECEIVERS, nodes).ravel()
    highest = jax.ops.segment_max(scores.reshape(-1, heads), ids, rows * nodes)
    highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    highest = gather_nodes(highest.reshape(rows, nodes, -1), edges, RECEIVERS)
    weights = jnp.where(edge_mask(edges)[:, :, None], jnp.exp(scores - highest), 0)
    total = gather_nodes(aggregate(weights, edges, nodes), edges, RECEIVERS)
    return weights / jnp.where(total > 0, total, 1)


def in_degrees(edges: jax.Array, nodes: int) -> jax.Array:
    """In-degrees: the number of edges that each node receives, (B, N) of float32."""
    return aggregate(edge_mask(edges).astype(jnp.float32), edges, nodes)


def edge_mask(edges: jax.Array) -> jax.Array:
    """The mask (B, E) of the edges that are not padding."""
    return edges[:, :, 1] >= 0


def _node_ids(edges: jax.Array, side: int, nodes: int) -> jax.Array:
    """The edges' nodes, numbered over all graphs of the batch: (B, E).

    Padding edges get an index past the last node, which gather and segment operations drop.
    """
    rows = edges.shape[0]
    first = nodes * jnp.arange(rows, dtype=edges.dtype)[:, None]
    return jnp.where(edge_mask(edges), edges[:, :, side] + first, rows * nodes)
