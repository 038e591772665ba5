"""Graphs: node features, labels and edges; datasets and loaders for graph neural networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.fetch import dataset_folder
from jdl.data.loader import DatasetLoader
from jdl.data.nearest import nearest_rows
from jdl.data.neighbor_loader import (
    Adjacency,
    LinkNeighborLoader,
    NeighborLoader,
    check_sampling,
)
from jdl.data.order import permutation
from jdl.types import Error

CORA = (
    "neural networks",
    "rule learning",
    "reinforcement learning",
    "probabilistic methods",
    "theory",
    "genetic algorithms",
    "case based",
)

Splits = tuple[Dataset, Dataset, Dataset]


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph: node features x (N, F), node labels y (N,), and edges (E, 2) of (sender, receiver).

    An undirected edge is stored in both directions, as `graph` does. `edge_features` (E, D) are of
    the edges, in their order.
    """

    x: np.ndarray
    edges: np.ndarray
    y: np.ndarray
    labels: Sequence[str] = ()
    edge_features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def split_nodes(self, per_class: int, valid: int, test: int, seed: int = 0) -> Splits:
        """Datasets for node classification: (train, valid, test), split as by Yang et al. (2016).

        Each has the whole graph as its one example, with the labels y of the split's own nodes and
        -1 elsewhere (transductive learning). `seed` determines the `per_class` training nodes of
        each class, and which `valid` and `test` of the other nodes are held out.
        """
        train, valid_nodes, test_nodes = self._split(per_class, valid, test, seed)
        return self._labelled(train), self._labelled(valid_nodes), self._labelled(test_nodes)

    def split_by_masks(self, train: Any, valid: Any, test: Any) -> Splits:
        """The same for nodes of your own choice: (train, valid, test), from a mask for each split.

        A mask is boolean, (N,), or has the indices of the split's nodes. Raises `Error` where a
        node is in two splits.
        """
        nodes = {
            name: self._chosen(name, mask)
            for name, mask in (("train", train), ("valid", valid), ("test", test))
        }
        for one, other in combinations(nodes, 2):
            if len(shared := np.intersect1d(nodes[one], nodes[other])):
                raise Error(
                    f"{len(shared)} nodes are in both {one} and {other}, such as {shared[0]}: a "
                    "node belongs to one split."
                )
        train, valid, test = map(self._labelled, nodes.values())
        return train, valid, test

    def node_rows(self) -> Dataset:
        """A dataset with one row per node, columns `node` and y, for `neighbor_loader`."""
        return arrays(self.labels, node=np.arange(len(self)), y=self.y)

    def whole_graph(self, rows: Dataset) -> Dataset:
        """A dataset of one example, the whole graph, with the labels of these rows alone.

        The rows are some of those of `node_rows`; other labels are -1, as in `split_nodes`.
        """
        return self._labelled(self._chosen("rows", rows.column("node")))

    def neighbor_loader(self, loader: DatasetLoader, *fanouts: int) -> NeighborLoader:
        """Neighbor sampling (GraphSAGE; Hamilton et al., 2017), for graphs larger than a batch.

        `loader` has batches of nodes, in the column `node`. The first fanout is the number of
        neighbors drawn for each node, the second that for each of these, and so on.
        """
        self._check_no_edge_features("neighbor sampling")
        check_sampling(loader, len(self), fanouts, ("node", "y"))
        return NeighborLoader(loader, self._adjacency, fanouts)

    def link_neighbor_loader(self, loader: DatasetLoader, *fanouts: int) -> LinkNeighborLoader:
        """Neighbor sampling for link prediction; `loader` has batches of links, column `link`.

        The graph and the links are those of `split_link_rows`.
        """
        self._check_no_edge_features("neighbor sampling")
        check_sampling(loader, len(self), fanouts, ("link",))
        return LinkNeighborLoader(loader, self._adjacency, fanouts)

    def split_links(self, valid: float, test: float, seed: int = 0) -> Splits:
        """Datasets for link prediction: (train, valid, test), each with one example.

        `valid` and `test` are the fractions of the edges that are held out: no split has them in
        its graph. Columns: x and edges, those of the training graph; links (1, L, 2), the edges to
        predict, once each; in valid and test also negatives (1, L, 2), as many pairs of nodes
        without an edge.
        """
        train, held_out = self._split_pairs(valid, test, seed)
        columns: dict[str, Any] = {"x": self.x[None], "edges": to_undirected(train)[None]}
        valid_split, test_split = (
            arrays(**columns, links=links[None], negatives=negatives[None])
            for links, negatives in held_out
        )
        return arrays(**columns, links=train[None]), valid_split, test_split

    def split_link_rows(self, valid: float, test: float, seed: int = 0) -> tuple[Graph, Splits]:
        """The same splits with one row per link, and the training graph, for neighbor sampling.

        Columns: `link` (2,), the two nodes; in valid and test also `negative` (2,).
        """
        train, held_out = self._split_pairs(valid, test, seed)
        valid_rows, test_rows = (
            arrays(link=links, negative=negatives) for links, negatives in held_out
        )
        known = replace(self, edges=to_undirected(train))
        return known, (arrays(link=train), valid_rows, test_rows)

    def _split_pairs(
        self, valid: float, test: float, seed: int
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """The training edges, once each; and the others and their negatives, of valid and test."""
        if min(valid, test) <= 0 or valid + test >= 1:
            raise Error(
                "valid and test must be fractions of the edges above 0 that leave some to train "
                f"on, not {valid} and {test}."
            )
        self._check_no_edge_features("link prediction")
        pairs = np.unique(np.sort(self.edges, 1), axis=0)
        if len(self.edges) != 2 * len(pairs):
            raise Error(
                f"Links are split of an undirected graph, but of the {len(pairs)} pairs of linked "
                "nodes some have an edge in one direction only: make the graph without "
                "directed=True."
            )
        pairs = pairs[permutation(len(pairs), seed, name="links")]
        ends = np.cumsum([0, round(valid * len(pairs)), round(test * len(pairs))])
        held_out = [pairs[start:end] for start, end in pairwise(ends)]
        if not all(map(len, held_out)):
            raise Error(
                f"{len(pairs)} edges are too few: valid and test would have "
                f"{' and '.join(str(len(links)) for links in held_out)}. Ask for larger fractions."
            )
        return pairs[ends[-1] :], [
            (links, _negative_edges(len(links), len(self), pairs, seed, name))
            for links, name in zip(held_out, ("valid", "test"), strict=True)
        ]

    @cached_property
    def _adjacency(self) -> Adjacency:
        return Adjacency(self.x, self.edges)

    def _split(self, per_class: int, valid: int, test: int, seed: int) -> list[np.ndarray]:
        order = permutation(len(self), seed, name="nodes")
        train = [order[self.y[order] == label][:per_class] for label in np.unique(self.y)]
        too_few = any(len(nodes) < per_class for nodes in train)
        rest = order[~np.isin(order, np.concatenate(train))]
        if per_class < 1 or too_few or min(valid, test) < 1 or valid + test > len(rest):
            raise Error(
                f"{len(self)} nodes of {len(train)} classes do not give {per_class} a class, "
                f"{valid} and {test}: ask for fewer, and for at least 1 of each."
            )
        splits = np.concatenate(train), rest[:valid], rest[valid : valid + test]
        return [np.sort(nodes) for nodes in splits]

    def _labelled(self, nodes: np.ndarray) -> Dataset:
        y = np.full(len(self), -1, np.int32)
        y[nodes] = self.y[nodes]
        columns = {"x": self.x, "edges": self.edges, "y": y}
        if self.edge_features is not None:
            columns["edge_features"] = self.edge_features
        return arrays(self.labels, **{name: column[None] for name, column in columns.items()})

    def _chosen(self, name: str, mask: Any) -> np.ndarray:
        """The nodes of a split, ascending, from a boolean mask or from indices."""
        mask = np.asarray(mask)
        if mask.dtype == bool and mask.shape == (len(self),):
            nodes = np.flatnonzero(mask)
        elif mask.dtype.kind in "iu" and mask.ndim == 1:
            nodes = np.unique(mask)
        else:
            raise Error(
                f"{name} must be a boolean mask of shape ({len(self)},) or indices of nodes, not "
                f"{mask.dtype} of shape {mask.shape}."
            )
        if mask.dtype != bool and len(nodes) < len(mask):
            raise Error(f"{name} has indices twice: if it is a mask, make it boolean.")
        if not len(nodes) or not 0 <= nodes[0] <= nodes[-1] < len(self):
            raise Error(
                f"{name} must have at least one node, and indices from 0 to {len(self) - 1} only."
            )
        return nodes

    def _check_no_edge_features(self, purpose: str) -> None:
        if self.edge_features is not None:
            raise Error(f"{purpose} has no place for edge features: make the graph without them.")


def graph(
    x: Any,
    pairs: Any,
    y: Any,
    labels: Sequence[str] = (),
    edge_features: Any = None,
    directed: bool = False,
) -> Graph:
    """A graph of your own arrays: node features x (N, F), labels y (N,), and edges.

    Each of the `pairs` (E, 2) of nodes, (sender, receiver), becomes an edge in both directions;
    with `directed` in this one alone. Duplicates are dropped, and self-loops, because layers add
    their own. `edge_features` (E, D) are of the pairs, for layers such as GIN.
    """
    x, pairs, y = np.asarray(x, np.float32), np.asarray(pairs), np.asarray(y, np.int32)
    if x.ndim != 2 or pairs.ndim != 2 or pairs.shape[1] != 2 or y.shape != x.shape[:1]:
        raise Error(
            "A graph needs arrays x (N, F), pairs (E, 2) and y (N,), not "
            f"{x.shape}, {pairs.shape} and {y.shape}."
        )
    edges, features = unique_edges(len(x), pairs, edge_features, directed)
    return Graph(x, edges, y, tuple(labels), features)


def unique_edges(
    nodes: int, pairs: np.ndarray, features: Any, directed: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The edges (E, 2) and their features of the pairs that `graph` takes.

    They are sorted by receiver, so that sums over them access memory in order.
    """
    features = None if features is None else np.asarray(features, np.float32)
    if pairs.size and (pairs.dtype.kind not in "iu" or not 0 <= pairs.min() <= pairs.max() < nodes):
        wrong = np.flatnonzero(((pairs < 0) | (pairs >= nodes) | (pairs % 1 != 0)).any(1))
        first = f"number {wrong[0]} is {pairs[wrong[0]].tolist()}" if len(wrong) else pairs.dtype
        raise Error(f"pairs must be of whole numbers, the nodes are 0 to {nodes - 1}, but {first}.")
    if features is not None and (features.ndim != 2 or len(features) != len(pairs)):
        raise Error(
            f"edge_features must have a row for each of the {len(pairs)} pairs, (E, D), not shape "
            f"{features.shape}."
        )
    kept = pairs[:, 0] != pairs[:, 1]
    pairs, features = pairs[kept], None if features is None else features[kept]
    if not directed:
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        features = None if features is None else np.concatenate([features, features])
    # np.unique sorts by the first column: the receiver.
    found, first, same = np.unique(pairs[:, ::-1], axis=0, return_index=True, return_inverse=True)
    if features is not None and (differ := (features[first][same] != features).any(1)).any():
        a, b = pairs[int(differ.argmax())]
        raise Error(
            f"The edge from {a} to {b} is there twice, with different features: merge them, or "
            "make the graph directed=True if they are of its two directions."
        )
    return found[:, ::-1].astype(np.int32), None if features is None else features[first]


def to_undirected(pairs: np.ndarray) -> np.ndarray:
    """Pairs (E, 2) as edges (2 E, 2) in both directions.

    They are sorted by receiver, so that sums over them access memory in order.
    """
    edges = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int32)
    return edges[np.lexsort((edges[:, 0], edges[:, 1]))]


def knn_graph(x: Any, y: Any, k: int, labels: Sequence[str] = ()) -> Graph:
    """The k-nearest-neighbor graph of rows x (N, ...), by Euclidean distance.

    Of rows at the same distance the first ones are taken, so that the graph is the same everywhere.
    The neighbors of 10,000 rows or more are kept in the cache.
    """
    flat = np.asarray(x, np.float32).reshape(len(x), -1)
    nearest = nearest_rows(flat, k)
    pairs = np.stack([np.repeat(np.arange(len(flat)), k), nearest.ravel()], axis=1)
    return graph(flat, pairs, y, labels)


def cora() -> Graph:
    """Cora, a citation network (McCallum et al., 2000): 2,708 papers of 7 classes, 5,429 citations.

    x (2708, 1433) are bags of words, each divided by the paper's number of words. Fetch it once
    with `jdl data fetch cora`. Needs pyarrow: `pip install 'jdl[graph]'`.
    """
    folder = dataset_folder("cora")
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
    index = {int(name): n for n, name in enumerate(ids)}
    ends = zip(links["sourceNodeId"].to_pylist(), links["targetNodeId"].to_pylist(), strict=True)
    pairs = np.asarray([(index[a], index[b]) for a, b in ends])
    return graph(
        words / words.sum(1, keepdims=True).clip(1), pairs, nodes["subject"].to_numpy(), CORA
    )


def _negative_edges(
    count: int, nodes: int, pairs: np.ndarray, seed: int, purpose: str
) -> np.ndarray:
    """Negative sampling: `count` different pairs of nodes that are none of `pairs`."""
    positives = {(int(a), int(b)) for a, b in pairs}
    negatives: dict[tuple[int, int], None] = {}
    for epoch in range(100):
        a, b = (
            permutation(max(nodes, 4 * count), seed, epoch, f"{purpose} {end}") % nodes
            for end in "ab"
        )
        for pair in zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True):
            if pair[0] != pair[1] and pair not in positives and len(negatives) < count:
                negatives[pair] = None
        if len(negatives) == count:
            return np.asarray(list(negatives), np.int32)
    raise Error(
        f"The graph of {nodes} nodes has fewer than {count} pairs without an edge: hold out a "
        "smaller fraction of its edges."
    )
