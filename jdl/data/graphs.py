"""Graphs: nodes with numbers and labels, and edges between them; a whole graph is one example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.dataset import Dataset, arrays
from jdl.data.fetch import fetched
from jdl.data.order import shuffled
from jdl.keys import stream
from jdl.types import Array, Batch, Error

CORA = (
    "neural networks",
    "rule learning",
    "reinforcement learning",
    "probabilistic methods",
    "theory",
)
CORA += ("genetic algorithms", "case based")


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes x (N, F), edges (E, 2) from sender to receiver, and labels y (N,).

    An edge that counts both ways is there twice: `graph` makes it so.
    """

    x: np.ndarray
    edges: np.ndarray
    y: np.ndarray
    labels: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.x)

    def nodes(
        self, per_class: int, valid: int, test: int, seed: int = 0
    ) -> tuple[Dataset, Dataset, Dataset]:
        """(train, valid, test): each this graph as its one example, with the labels y of its own nodes, -1 elsewhere.

        Drawn by `seed`: `per_class` nodes of each class to train, then so many others to choose and to judge by.
        """
        return tuple(self._labelled(nodes) for nodes in self._split(per_class, valid, test, seed))  # type: ignore[return-value]

    def tables(
        self, per_class: int, valid: int, test: int, seed: int = 0
    ) -> tuple[Dataset, Dataset, Dataset]:
        """The same three parts as tables of nodes, a row each: what `sampled` takes batches of."""
        parts = self._split(per_class, valid, test, seed)
        return tuple(arrays(self.labels, node=nodes, y=self.y[nodes]) for nodes in parts)  # type: ignore[return-value]

    def sampled(self, batches: DatasetLoader, *fanouts: int) -> Sampled:
        """Batches of nodes, of a table with the column `node`, each with a sample of what is around it.

        For graphs too large for one batch (Hamilton et al., 2017): from a node so many of its neighbours, from each of
        these so many of theirs, and so on; drawn with replacement, anew in every epoch, by (seed, epoch, id). A row is
        a tree whose first node is the one asked for: x (B, M, F), edges (B, M - 1, 2), and y (B, M), -1 elsewhere.
        """
        if not fanouts or min(fanouts) < 1:
            raise Error(
                f"sampled takes how many neighbours to draw at each step, like 10, 5, and not {fanouts}."
            )
        return Sampled(batches, self, fanouts)

    def links(self, valid: float, test: float, seed: int = 0) -> tuple[Dataset, Dataset, Dataset]:
        """(train, valid, test) for predicting links: shares of the edges are hidden from the graph in all three.

        Columns: x and edges, those of the training graph; links (1, L, 2), the edges to be predicted, once each; in
        valid and test also others (1, L, 2), as many pairs of nodes that no edge joins.
        """
        if min(valid, test) <= 0 or valid + test >= 1:
            raise Error(
                f"valid and test are shares of the edges above 0 that leave some, and not {valid} and {test}."
            )
        pairs = np.unique(np.sort(self.edges, 1), axis=0)
        pairs = pairs[shuffled(len(pairs), seed, name="links")]
        ends = np.cumsum([0, round(valid * len(pairs)), round(test * len(pairs))])
        hidden = [pairs[start:end] for start, end in pairwise(ends)]
        kept = pairs[ends[-1] :]
        joined = {(int(a), int(b)) for a, b in pairs}
        one: dict[str, Any] = {"x": self.x[None], "edges": both_ways(kept)[None]}

        def example(links: np.ndarray, purpose: str) -> Dataset:
            others = _unjoined(len(links), len(self), joined, seed, purpose)
            return arrays(**one, links=links[None], others=others[None])

        return (
            arrays(**one, links=kept[None]),
            example(hidden[0], "valid"),
            example(hidden[1], "test"),
        )

    def _split(self, per_class: int, valid: int, test: int, seed: int) -> list[np.ndarray]:
        order = shuffled(len(self), seed, name="nodes")
        found = [order[self.y[order] == label][:per_class] for label in np.unique(self.y)]
        short = [n for n, nodes in enumerate(found) if len(nodes) < per_class]
        rest = order[~np.isin(order, np.concatenate(found))]
        if per_class < 1 or short or min(valid, test) < 1 or valid + test > len(rest):
            raise Error(
                f"{len(self)} nodes of {len(found)} classes do not give {per_class} a class, {valid} and {test}: ask "
                "for fewer, and for at least 1 of each."
            )
        return [
            np.sort(part)
            for part in (np.concatenate(found), rest[:valid], rest[valid : valid + test])
        ]

    def _labelled(self, nodes: np.ndarray) -> Dataset:
        y = np.full(len(self), -1, np.int32)
        y[nodes] = self.y[nodes]
        return arrays(self.labels, x=self.x[None], edges=self.edges[None], y=y[None])


def graph(x: Any, pairs: Any, y: Any, labels: Sequence[str] = ()) -> Graph:
    """A graph of your own arrays: nodes x (N, F), pairs (E, 2) of joined nodes, and labels y (N,).

    Each pair counts both ways, once; a node's edge to itself is left out, as layers add their own.
    """
    x, pairs, y = np.asarray(x, np.float32), np.asarray(pairs), np.asarray(y, np.int32)
    if x.ndim != 2 or pairs.ndim != 2 or pairs.shape[1] != 2 or y.shape != x.shape[:1]:
        raise Error(
            f"A graph is x (N, F), pairs (E, 2) and y (N,), and not {x.shape}, {pairs.shape} and {y.shape}."
        )
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < len(x):
        raise Error(
            f"Pairs name nodes from {pairs.min()} to {pairs.max()}, and there are the nodes 0 to {len(x) - 1}."
        )
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1), axis=0)
    return Graph(x, both_ways(pairs), y, tuple(labels))


def both_ways(pairs: np.ndarray) -> np.ndarray:
    """Pairs (E, 2) as edges (2 E, 2) in both directions, sorted by receiver: sums then run through memory in order."""
    edges = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int32)
    return edges[np.lexsort((edges[:, 0], edges[:, 1]))]


def nearest(x: Any, y: Any, neighbours: int, labels: Sequence[str] = ()) -> Graph:
    """The graph of rows x (N, ...), each joined to its nearest `neighbours` by Euclidean distance."""
    from sklearn.neighbors import kneighbors_graph

    flat = np.asarray(x, np.float32).reshape(len(x), -1)
    return graph(flat, np.argwhere(kneighbors_graph(flat, neighbours).toarray()), y, labels)


def cora() -> Graph:
    """Cora (McCallum et al., 2000): 2,708 papers on machine learning of 7 kinds, 5,429 citations.

    x has 1,433 words, each paper's divided by how many it has. Reading it needs pyarrow, of the extra `graph`.
    """
    folder = fetched("cora")
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Error(
            "Cora is read by pyarrow, which is not installed: pip install 'jdl[graph]'."
        ) from error
    nodes, links = (
        parquet.read_table(folder / f"cora_{name}.parquet.gzip") for name in ("nodes", "rels")
    )
    ids = nodes["nodeId"].to_numpy()
    words = np.stack(nodes["features"].to_numpy(zero_copy_only=False)).astype(np.float32)
    place = {int(name): n for n, name in enumerate(ids)}
    ends = zip(links["sourceNodeId"].to_pylist(), links["targetNodeId"].to_pylist(), strict=True)
    pairs = np.asarray([(place[a], place[b]) for a, b in ends])
    return graph(
        words / words.sum(1, keepdims=True).clip(1), pairs, nodes["subject"].to_numpy(), CORA
    )


def _unjoined(
    count: int, nodes: int, joined: set[tuple[int, int]], seed: int, purpose: str
) -> np.ndarray:
    """So many different pairs of nodes that no edge joins."""
    found: dict[tuple[int, int], None] = {}
    for epoch in range(100):
        a, b = (
            shuffled(max(nodes, 4 * count), seed, epoch, f"{purpose} {end}") % nodes for end in "ab"
        )
        for pair in zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True):
            if pair[0] != pair[1] and pair not in joined and len(found) < count:
                found[pair] = None
        if len(found) == count:
            return np.asarray(list(found), np.int32)
    raise Error(
        f"The graph of {nodes} nodes has no {count} pairs that no edge joins: hide a smaller share of its edges."
    )


@dataclass(frozen=True, eq=False)
class Sampled:
    """The `Data` of nodes with a sample of what is around each: see `Graph.sampled`."""

    batches: DatasetLoader
    graph: Graph
    fanouts: tuple[int, ...]
    seed: int = field(init=False, default=0)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def __getitem__(self, i: int) -> Batch:
        return self._compiled(next(self.read(i)), jnp.asarray(i, jnp.int32))

    def shard(self, part: slice) -> Sampled:
        """The same batches, of which `read` reads no more than that part of the rows ahead."""
        return Sampled(self.batches.shard(part), self.graph, self.fanouts)

    def read(self, start: int = 0) -> Iterator[Any]:
        """What batches are made of: those of nodes, and the graph, which stays on the device."""
        for source in self.batches.read(start):
            yield {"nodes": source, "graph": self._on_device}

    def batch(self, source: Any, i: Array) -> Batch:
        """Batch i: draws the neighbours, and gathers; pure, for use within a jit."""
        batch = self.batches.batch(source["nodes"], i)
        x, first, others = (source["graph"][name] for name in ("x", "first", "others"))
        key = stream(jax.random.key(self.batches.seed or 0), "neighbours", i // len(self))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["id"])
        levels = [batch["node"][:, None]]
        for depth, count in enumerate(self.fanouts):
            seen = jnp.repeat(levels[-1], count, 1)
            level_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, depth)
            chance = jax.vmap(lambda key, shape=seen.shape[1:]: jax.random.uniform(key, shape))(
                level_keys
            )
            degree = first[seen + 1] - first[seen]
            place = (
                (chance * degree.astype(chance.dtype))
                .astype(jnp.int32)
                .clip(0, (degree - 1).clip(0))
            )
            levels.append(
                jnp.where(degree > 0, others[first[seen] + place], seen)
            )  # a lonely node hears itself
        nodes = jnp.concatenate(levels, 1)
        edges = jnp.broadcast_to(jnp.asarray(self._tree)[None], (len(nodes), *self._tree.shape))
        y = jnp.full(nodes.shape, -1, jnp.int32).at[:, 0].set(batch["y"])
        return {"x": x[nodes], "edges": edges, "y": y, "id": batch["id"], "mask": batch["mask"]}

    @cached_property
    def _tree(self) -> np.ndarray:
        """The edges from each drawn node to the one that it was drawn for: (M - 1, 2)."""
        edges, start, size = [], 0, 1
        for count in self.fanouts:
            drawn = start + size + np.arange(size * count)
            edges.append(np.stack([drawn, start + np.arange(size * count) // count], 1))
            start, size = start + size, size * count
        return np.concatenate(edges).astype(np.int32)

    @cached_property
    def _on_device(self) -> dict[str, Array]:
        edges = self.graph.edges[np.argsort(self.graph.edges[:, 1], kind="stable")]
        first = np.searchsorted(edges[:, 1], np.arange(len(self.graph) + 1)).astype(np.int32)
        others = edges[:, 0] if len(edges) else np.zeros(1, np.int32)
        return {
            name: jnp.asarray(v)
            for name, v in (("x", self.graph.x), ("first", first), ("others", others))
        }

    @cached_property
    def spec(self) -> Batch:
        """The shapes and types of a batch."""
        return jax.eval_shape(
            self.batch, next(self.read()), jnp.int32(0)
        )  # read outside the trace: it caches

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.batch)
