"""A graph for tests whose edges are known without looking."""

import numpy as np

from jdl.data.graphs import Graph, graph


def ring(nodes: int) -> Graph:
    """Each node has four neighbors, and x is its number, one-hot."""
    pairs = [(n, (n + step) % nodes) for n in range(nodes) for step in (1, 2)]
    return graph(np.eye(nodes), pairs, np.zeros(nodes))
