"""Graph networks: nodes that hear from their neighbours, by convolution, by a mean, or by attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense, Dropout, graph


class GNN(nn.Module):
    """Layers of the widths `hidden`, each followed by `activation` and, before it, dropout; then one of `outputs`.

    x (B, N, F) and edges (B, E, 2), from sender to receiver and padded by -1, give (B, N, outputs), or with `pooled`,
    by the mean over a graph's nodes, (B, outputs). An edge that counts both ways is there twice. `layer` is GCN, SAGE
    or GAT, or `partial(GAT, heads=4, dropout=0.6)`.
    """

    outputs: int
    hidden: Sequence[int] = (16,)
    layer: Callable[..., Any] | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    pooled: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, edges: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, N, F), edges (B, E, 2) and which nodes are real, (B, N), to (B, N, outputs) or (B, outputs)."""
        layer = self.layer or GCN
        for n, width in enumerate(self.hidden):
            x = Dropout(self.dropout)(x, train)
            x = self.activation(layer(width, name=f"layer_{n}")(x, edges, train))
        x = Dropout(self.dropout)(x, train)
        if not self.pooled:
            return layer(self.outputs, name="out")(x, edges, train)
        if mask is None or mask.ndim == 1:
            mask = jnp.ones(x.shape[:2], bool)
        weights = mask.astype(x.dtype)[:, :, None]
        return nn.Dense(self.outputs, name="out")((weights * x).sum(1) / weights.sum(1).clip(1))


class GCN(nn.Module):
    """A graph convolution (Kipf and Welling, 2017): sums over neighbours and itself, by the roots of both degrees."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, train: bool = False) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        x = Dense(self.features, use_bias=False)(x)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        root = jax.lax.rsqrt(1 + graph.degrees(edges, x.shape[1])).astype(x.dtype)[:, :, None]
        x = root * x
        return (
            root * (x + graph.summed(graph.ends(x, edges, 0), edges, x.shape[1])) + bias[None, None]
        )


class SAGE(nn.Module):
    """What a node has itself, and the mean of its neighbours, by matrices of their own (Hamilton et al., 2017)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, train: bool = False) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        nodes = x.shape[1]
        own, heard = (
            Dense(self.features, name="own")(x),
            Dense(self.features, use_bias=False, name="heard")(x),
        )
        count = graph.degrees(edges, nodes).clip(1).astype(x.dtype)[:, :, None]
        return own + graph.summed(graph.ends(heard, edges, 0), edges, nodes) / count


class GAT(nn.Module):
    """Attention to neighbours and itself (Velickovic et al., 2018), by `heads` that are joined, or averaged.

    Joined, each has features / heads numbers; a number of features that the heads do not divide is an average of heads
    of so many. In training `dropout` is of the weights: a node hears some of its neighbours.
    """

    features: int
    heads: int = 8
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, edges: jax.Array, train: bool = False) -> jax.Array:
        """x (B, N, F) and edges (B, E, 2) to (B, N, features)."""
        rows, nodes = x.shape[:2]
        joined = self.features % self.heads == 0
        width = self.features // self.heads if joined else self.features
        x = Dense(self.heads * width, use_bias=False)(x).reshape(rows, nodes, self.heads, width)
        init = nn.initializers.glorot_uniform()
        sends, receives = (
            (x * self.param(name, init, (self.heads, width))[None, None]).sum(-1)
            for name in ("sender", "receiver")
        )
        itself = jnp.broadcast_to(
            jnp.arange(nodes, dtype=edges.dtype)[None, :, None], (rows, nodes, 2)
        )
        edges = jnp.concatenate([edges, itself], 1)
        scores = nn.leaky_relu(graph.ends(sends, edges, 0) + graph.ends(receives, edges, 1), 0.2)
        weights = Dropout(self.dropout)(graph.softmax(scores, edges, nodes), train)
        x = graph.summed(weights[..., None] * graph.ends(x, edges, 0), edges, nodes)
        x = x.reshape(rows, nodes, -1) if joined else x.mean(2)
        return x + self.param("bias", nn.initializers.zeros, (self.features,))[None, None]
