"""Message passing neural network (MPNN) for graphs with edge features, such as molecules."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense, Dropout, graph
from jdl.layers.graph import SENDERS


class MPNN(nn.Module):
    """Message passing neural network, MPNN (Gilmer et al., 2017): a graph to (B, outputs).

    Nodes x (B, N, F) and edges (B, E, 2), padded by -1, with features (B, E, D). In each of `steps`
    a neighbor's message is its state times a matrix that a small network computes of the edge's
    features (edge network); a GRU updates a node's state by the sum of its messages. With
    `virtual_node`, a node beside the graph (virtual node) sends to all nodes and receives the mean
    of them, so that distant parts of a graph exchange something at each step. The readout is a
    gated sum over the real nodes (set pooling; Li et al., 2016), and a hidden layer.
    """

    outputs: int
    width: int = 32
    steps: int = 3
    virtual_node: bool = True
    dropout: float = 0.0

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
        if mask is None or mask.ndim == 1:
            mask = jnp.ones(x.shape[:2], bool)
        real = mask.astype(x.dtype)[:, :, None]
        if edge_features is None:
            edge_features = jnp.ones((*edges.shape[:2], 1), x.dtype)
        hidden = nn.relu(Dense(self.width, name="edge_hidden")(edge_features.astype(x.dtype)))
        matrices = Dense(self.width**2, name="edge_out")(hidden)
        matrices = matrices.reshape(*edges.shape[:2], self.width, self.width)
        first = state = nn.relu(Dense(self.width, name="node")(x))
        everywhere = jnp.zeros((x.shape[0], 1, self.width), x.dtype)  # the virtual node's state
        update = nn.GRUCell(self.width, name="update")
        update_virtual = nn.GRUCell(self.width, name="update_virtual")
        for _ in range(self.steps):
            sent = graph.gather_nodes(state, edges, SENDERS)
            messages = jnp.einsum("beij,bej->bei", matrices, sent)
            received = graph.aggregate(messages, edges, x.shape[1])
            if self.virtual_node:
                mean = (real * state).sum(1, keepdims=True) / real.sum(1, keepdims=True).clip(1)
                everywhere, _ = update_virtual(everywhere, mean)
                received = received + everywhere
            state, _ = update(state, received)
        gate = nn.sigmoid(Dense(self.width, name="gate")(jnp.concatenate([state, first], -1)))
        pooled = (real * gate * Dense(self.width, name="pooled")(state)).sum(1)
        pooled = Dropout(self.dropout)(nn.relu(Dense(self.width, name="hidden")(pooled)), train)
        return nn.Dense(self.outputs, name="out")(pooled)
