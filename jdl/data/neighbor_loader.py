"""Neighbor sampling: batches of small parts of a graph that is too large for one step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.keys import stream
from jdl.types import Array, Batch, Bounds, Error, Key, Loader

TRIES = 8  # pairs that are drawn for a negative: the first without an edge is taken


@dataclass(frozen=True, eq=False)
class Adjacency:
    """The node features x (N, F) of a graph, and its edges (E, 2), for sampling on the device."""

    x: np.ndarray
    edges: np.ndarray

    @cached_property
    def on_device(self) -> dict[str, Array]:
        """The features, and the edges in compressed sparse row (CSR) format by receiver."""
        edges = self.edges[np.lexsort(self.edges.T)]  # senders ascending, for binary search
        indptr = np.searchsorted(edges[:, 1], np.arange(len(self.x) + 1)).astype(np.int32)
        indices = edges[:, 0] if len(edges) else np.zeros(1, np.int32)
        columns = {"x": self.x, "indptr": indptr, "indices": indices}
        return {name: jnp.asarray(column) for name, column in columns.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the features and the edges."""
        digest = hashlib.sha256()
        for array in (self.x, self.edges):
            digest.update(f"{array.dtype} {array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class NeighborLoader(Loader):
    """A data loader with neighbor sampling (GraphSAGE; Hamilton et al., 2017).

    A row of a batch is a tree of M nodes: a node, its drawn neighbors, their drawn neighbors, and
    so on. Columns: x (B, M, F); edges (B, M - 1, 2), from each node to the one it was drawn for; y
    (B, M), the label of the first node and -1 elsewhere. Neighbors are drawn without replacement,
    by (seed, epoch, id), and where rows are drawn by weight and may come twice, by the place in the
    epoch. Of a node that has fewer than are drawn, all are there, and the others are padding: x is
    0, and edges are -1.
    """

    loader: DatasetLoader
    graph: Adjacency
    fanouts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.loader)

    def shard(self, part: slice) -> Self:
        """The same loader for one process: `read` prefetches only these rows of each batch."""
        return replace(self, loader=self.loader.shard(part))

    def read(self, start: int = 0) -> Iterator[Any]:
        """The raw data of the batches: those of the nodes' loader, and the graph, on the device."""
        for raw in self.loader.read(start):
            yield {"nodes": raw, "graph": self.graph.on_device}

    def batch(self, raw: Any, i: Array) -> Batch:
        """Batch i: draws the neighbors and gathers their features; pure, to be jitted."""
        batch = self.loader.batch(raw["nodes"], i)
        nodes, columns = self._neighborhoods(raw, batch["node"][:, None], batch["id"], i)
        y = jnp.full(nodes.shape, -1, jnp.int32).at[:, 0].set(batch["y"])
        return {**columns, "y": y, "id": batch["id"], "mask": batch["mask"]}

    def _neighborhoods(
        self, raw: Any, seeds: Array, ids: Array, i: Array, hidden: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The nodes (B, M) of trees that grow from the seeds (B, S), which come first; x and edges.

        Padding nodes are -1. The edges between the two nodes `hidden` (B, 2) are not there.
        """
        keys = self._keys(raw, "neighbours", ids, i)  # another name would draw other neighbors
        hops = [seeds]
        for depth, fanout in enumerate(self.fanouts):
            hop_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, depth)
            hops.append(_draw_neighbors(raw["graph"], hops[-1], fanout, hop_keys, hidden))
        nodes = jnp.concatenate(hops, 1)
        real = (nodes >= 0)[:, :, None]
        x = jnp.where(real, raw["graph"]["x"][nodes.clip(0)], 0)
        edges = jnp.asarray(_trees(seeds.shape[1], self.fanouts))[None]
        edges = jnp.where(real[:, seeds.shape[1] :], edges, -1)
        return nodes, {"x": x, "edges": edges}

    def _keys(self, raw: Any, name: str, ids: Array, i: Array) -> Key:
        """The key of each row, of (seed, epoch, id), and of its place where rows come twice."""
        key = stream(raw["nodes"]["key"], name, i // len(self))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
        if self.loader.sampling:  # the copies of a row in an epoch are drawn for differently
            places = i % len(self) * self.batch_size + jnp.arange(self.batch_size)
            keys = jax.vmap(jax.random.fold_in)(keys, places)
        return keys

    @cached_property
    def spec(self) -> Batch:
        """The shapes and types of a batch."""
        # Read outside of `eval_shape`: reading caches arrays, which must not be tracers.
        return jax.eval_shape(self.batch, next(self.read()), jnp.int32(0))

    @property
    def batch_size(self) -> int:
        """Rows in a batch, padding included."""
        return self.loader.batch_size

    @property
    def num_examples(self) -> int:
        """Nodes, or links, in an epoch."""
        return self.loader.num_examples

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest label."""
        return {name: bounds for name, bounds in self.loader.bounds.items() if name == "y"}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the nodes, the graph and the fanouts."""
        parts = f"{self.loader.fingerprint} {self.graph.fingerprint} {self.fanouts}"
        return hashlib.sha256(parts.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LinkNeighborLoader(NeighborLoader):
    """A data loader with neighbor sampling around links, for link prediction.

    A row of a batch is the trees of four nodes, which come first: the two of a link, and the two of
    its negative, a pair of nodes without a link. Columns: x (B, M, F), edges (B, M - 4, 2), links
    and negatives (B, 1, 2): the trees' first nodes. Where the link is itself an edge of the graph,
    neighbors are drawn as if it were none, so that it is not given away (Zhang and Chen, 2018). A
    negative is the row's, column `negative`, or drawn like neighbors: of 8 random pairs of
    different nodes the first that has no edge in the graph, if there is one.
    """

    def batch(self, raw: Any, i: Array) -> Batch:
        """Batch i: draws the neighbors and gathers their features; pure, to be jitted."""
        batch = self.loader.batch(raw["nodes"], i)
        link, negative = batch["link"], batch.get("negative")
        if negative is None:
            negative = self._random_pairs(raw, batch["id"], i)
        seeds = jnp.concatenate([link, negative], 1)
        nodes, columns = self._neighborhoods(raw, seeds, batch["id"], i, hidden=link)
        links, negatives = (
            jnp.broadcast_to(jnp.asarray(pair, jnp.int32), (len(nodes), 1, 2))
            for pair in ([[[0, 1]]], [[[2, 3]]])
        )
        rest = {"links": links, "negatives": negatives, "id": batch["id"], "mask": batch["mask"]}
        return {**columns, **rest}

    def _random_pairs(self, raw: Any, ids: Array, i: Array) -> Array:
        """Negative sampling: two different nodes for each row, (B, 2), if possible without edge."""
        nodes = len(self.graph.x)

        def draw(key: Key) -> Array:
            a, step = jax.random.randint(key, (TRIES, 2), jnp.array([0, 1]), nodes).T
            return jnp.stack([a, (a + step) % nodes], 1)

        pairs = jax.vmap(draw)(self._keys(raw, "negatives", ids, i))
        _, joined = _find_neighbors(raw["graph"], pairs[:, :, 1], pairs[:, :, 0])
        first = joined.argmin(1)  # the first False; of pairs that all have an edge, the first
        return jnp.take_along_axis(pairs, first[:, None, None], 1)[:, 0]


def check_sampling(
    loader: DatasetLoader, nodes: int, fanouts: tuple[int, ...], needed: tuple[str, ...]
) -> None:
    """Raises `Error` for fanouts below 1, missing columns, and nodes that are not in the graph."""
    if not fanouts or min(fanouts) < 1:
        raise Error(
            "Neighbor sampling takes how many neighbors to draw at each hop, at least 1, such as "
            f"10, 5, not {fanouts}."
        )
    spec = loader.spec
    if missing := [name for name in needed if name not in spec]:
        raise Error(
            f"Neighbor sampling needs batches with {' and '.join(needed)}, but these have no "
            f"{missing[0]}: take rows of node_rows or split_link_rows."
        )
    for name in {"node", "link", "negative"} & set(spec):
        least, greatest = loader.bounds.get(name, (0, 0))
        if not 0 <= least <= greatest < nodes:
            raise Error(
                f"The column {name} has nodes from {least} to {greatest}, but those of the graph "
                f"are 0 to {nodes - 1}."
            )


def _trees(seeds: int, fanouts: tuple[int, ...]) -> np.ndarray:
    """The edges of the trees, from each drawn node to the one it was drawn for, in their order."""
    edges, start, size = [], 0, seeds
    for fanout in fanouts:
        senders = start + size + np.arange(size * fanout)
        edges.append(np.stack([senders, start + np.arange(size * fanout) // fanout], 1))
        start, size = start + size, size * fanout
    return np.concatenate(edges).astype(np.int32)


def _draw_neighbors(
    graph: dict[str, Array], nodes: Array, fanout: int, keys: Key, hidden: Array | None
) -> Array:
    """`fanout` different neighbors of the nodes (B, M), padded with -1: (B, M * fanout).

    The two nodes `hidden` (B, 2) are no neighbors of each other.
    """
    indptr, indices = graph["indptr"], graph["indices"]
    first = indptr[nodes.clip(0)]
    degree = jnp.where(nodes >= 0, indptr[nodes.clip(0) + 1] - first, 0)
    shape = (*nodes.shape[1:], fanout)
    bits = jax.vmap(lambda key: jax.random.bits(key, shape))(keys)
    if hidden is None:
        places = _sample_distinct(bits, degree)
    else:
        a, b = hidden[:, :1], hidden[:, 1:]
        other = jnp.where(nodes == a, b, jnp.where(nodes == b, a, -1))
        skipped, found = _find_neighbors(graph, nodes, other)
        degree = jnp.where(found, degree - 1, degree)
        places = _sample_distinct(bits, degree)
        beyond = found[:, :, None] & (places >= skipped[:, :, None])
        places = jnp.where(beyond, places + 1, places)
    neighbors = indices[(first[:, :, None] + places).clip(0, len(indices) - 1)]
    drawn = jnp.arange(fanout)[None, None] < degree[:, :, None]
    return jnp.where(drawn, neighbors, -1).reshape(len(nodes), -1)


def _find_neighbors(graph: dict[str, Array], nodes: Array, others: Array) -> tuple[Array, Array]:
    """Binary search for others among the neighbors of nodes: (their place there, whether found)."""
    indptr, indices = graph["indptr"], graph["indices"]
    first, end = indptr[nodes.clip(0)], indptr[nodes.clip(0) + 1]

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        beyond = (low < high) & (indices[middle.clip(0, len(indices) - 1)] < others)
        return jnp.where(beyond, middle + 1, low), jnp.where(beyond, high, middle)

    place, _ = jax.lax.fori_loop(0, len(indices).bit_length(), halve, (first, end))
    found = (place < end) & (indices[place.clip(0, len(indices) - 1)] == others)
    return place - first, found


def _sample_distinct(bits: Array, sizes: Array) -> Array:
    """Sampling without replacement (Floyd's algorithm; Bentley and Floyd, 1987).

    Gives n different numbers below each of the `sizes` (...), of random bits (..., n); below a size
    of n or less, 0, 1, ..., n - 1.
    """
    n = bits.shape[-1]
    rest = (sizes - n).clip(0)

    def draw(place: Array, chosen: Array) -> Array:
        last = rest + place
        number = (bits[..., place] % (last + 1).astype(bits.dtype)).astype(jnp.int32)
        taken = (chosen == number[..., None]).any(-1)
        return chosen.at[..., place].set(jnp.where(taken, last, number))

    return jax.lax.fori_loop(0, n, draw, jnp.full(bits.shape, -1, jnp.int32))
