"""Graph neural networks (GNN) by message passing: GCN, GraphSAGE, attention (GAT), GIN and GINE."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import Dense, Dropout, graph
from jdl.layers.graph import RECEIVERS, SENDERS


class GNN(nn.Module):
    """Graph neural network: message passing layers for node classification or whole graphs.

    Nodes x (B, N, F) and edges (B, E, 2), from sender to receiver and padded by -1, give (B, N,
    outputs); with `global_mean_pool`, the mean over a graph's nodes, they give (B, outputs). An
    undirected edge is there twice, once in each direction. `layer` is GCN, SAGE, GAT or GIN, or
    `partial(GAT, heads=4, dropout=0.6)`. There is a layer for each width of `hidden`, with dropout
    before it and `activation` after it, then one of width `outputs`. `norm`, a module of one
    argument such as jdl.layers.LayerNorm, normalizes each node before the activation: without it
    the sums of several GIN layers grow. Edge features (B, E, D) are given to a layer that takes
    them, as GIN does.
    """

    outputs: int
    hidden: Sequence[int] = (16,)
    layer: Callable[..., Any] | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    global_mean_pool: bool = False
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        edges: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        edge_features: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, N, F), edges (B, E, 2), and which nodes are real, (B, N), as in the class."""
        layer = self.layer or GCN
        features = {} if edge_features is None else {"edge_features": edge_features}
        kind: Any = layer.func if isinstance(layer, partial) else layer
        if features and "edge_features" not in inspect.signature(kind.__call__).parameters:
            raise Error(
                f"{kind.__name__} does not use edge features: choose GNN(..., layer=GIN), or leave "
                "the column edge_features out."
            )
        for n, width in enumerate(self.hidden):
            x = Dropout(self.dropout)(x, train)
            x = layer(width, name=f"layer_{n}")(x, edges, train, **features)
            x = self.activation(self.norm(name=f"norm_{n}")(x) if self.norm else x)
        x = Dropout(self.dropout)(x, train)
        if not self.global_mean_pool:
            return layer(self.outputs, name="out")(x, edges, train, **features)
        if mask is None or mask.ndim == 1:
            mask = jnp.ones(x.shape[:2], bool)
        weights = mask.astype(x.dtype)[:, :, None]
        return nn.Dense(self.outputs, name="out")((weights * x).sum(1) / weights.sum(1).clip(1))


class GCN(nn.Module):
    """Graph convolution, GCN (Kipf and Welling, 2017), as message passing.

    A node's message is its projection; each node sums those of its neighbours and its own,
    normalized by the square roots of both degrees.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, train: bool = False) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        nodes = x.shape[1]
        x = Dense(self.features, use_bias=False)(x)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        inv_sqrt_degree = jax.lax.rsqrt(1 + graph.in_degrees(edges, nodes))
        inv_sqrt_degree = inv_sqrt_degree.astype(x.dtype)[:, :, None]
        x = inv_sqrt_degree * x
        messages = graph.gather_nodes(x, edges, SENDERS)
        return inv_sqrt_degree * (x + graph.aggregate(messages, edges, nodes)) + bias[None, None]


class SAGE(nn.Module):
    """GraphSAGE layer with mean aggregation (Hamilton et al., 2017), as message passing.

    The sum of a projection of the node and of another projection of the mean of its neighbours.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, train: bool = False) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        nodes = x.shape[1]
        own = Dense(self.features, name="self")(x)
        neighbour = Dense(self.features, use_bias=False, name="neighbour")(x)
        messages = graph.gather_nodes(neighbour, edges, SENDERS)
        degree = graph.in_degrees(edges, nodes).clip(1).astype(x.dtype)[:, :, None]
        return own + graph.aggregate(messages, edges, nodes) / degree


class GIN(nn.Module):
    """Graph isomorphism layer, GIN (Xu et al., 2019); with edge features GINE (Hu et al., 2020).

    A multilayer perceptron of (1 + eps) times the node plus the sum of its neighbours, with a
    learned eps. With edge features (B, E, D), a neighbour's message is the ReLU of the neighbour
    plus a projection of the edge's features.
    """

    features: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        edges: jax.Array,
        train: bool = False,
        edge_features: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        nodes, width = x.shape[1:]
        messages = graph.gather_nodes(x, edges, SENDERS)
        if edge_features is not None:
            edge = Dense(width, name="edge")(edge_features.astype(x.dtype))
            messages = nn.relu(messages + edge)
        eps = self.param("eps", nn.initializers.zeros, ())
        x = (1 + eps) * x + graph.aggregate(messages, edges, nodes)
        return Dense(self.features, name="out")(nn.relu(Dense(self.features, name="hidden")(x)))


class GAT(nn.Module):
    """Graph attention layer, GAT (Velickovic et al., 2018), as message passing.

    Each node attends to its neighbours and itself. The outputs of the `heads`, of width features /
    heads, are concatenated; if the heads do not divide the features, heads of the full width are
    averaged. `dropout` is that of the attention weights.
    """

    features: int
    heads: int = 8
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, train: bool = False) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        rows, nodes = x.shape[:2]
        concatenate = self.features % self.heads == 0
        width = self.features // self.heads if concatenate else self.features
        x = Dense(self.heads * width, use_bias=False)(x).reshape(rows, nodes, self.heads, width)
        edges = _with_self_loops(edges, nodes)
        senders = graph.gather_nodes(self._score("sender", x), edges, SENDERS)
        receivers = graph.gather_nodes(self._score("receiver", x), edges, RECEIVERS)
        weights = graph.edge_softmax(nn.leaky_relu(senders + receivers, 0.2), edges, nodes)
        weights = Dropout(self.dropout)(weights, train)
        messages = weights[..., None] * graph.gather_nodes(x, edges, SENDERS)
        x = graph.aggregate(messages, edges, nodes)
        x = x.reshape(rows, nodes, -1) if concatenate else x.mean(2)
        return x + self.param("bias", nn.initializers.zeros, (self.features,))[None, None]

    def _score(self, name: str, x: jax.Array) -> jax.Array:
        """A node's part of the attention scores: x (B, N, heads, width) to (B, N, heads)."""
        vector = self.param(name, nn.initializers.glorot_uniform(), x.shape[2:])
        return (x * vector[None, None]).sum(-1)


def _with_self_loops(edges: jax.Array, nodes: int) -> jax.Array:
    """The edges (B, E, 2), and one from each node to itself: (B, E + N, 2)."""
    loops = jnp.arange(nodes, dtype=edges.dtype)[None, :, None]
    return jnp.concatenate([edges, jnp.broadcast_to(loops, (edges.shape[0], nodes, 2))], 1)
