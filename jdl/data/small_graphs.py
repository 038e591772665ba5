"""Many small graphs, such as molecules: a dataset with a graph in each row, padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.graphs import Graph, unique_edges
from jdl.types import Error

Parts = Mapping[str, Any]


def graphs(
    source: Any,
    y: Any = None,
    labels: Sequence[str] = (),
    directed: bool = False,
    node_labels: bool = False,
) -> Dataset:
    """A dataset of many graphs, one a row, for graph classification or regression.

    `source` is a `GraphsTuple` of jraph, or a list. Each item of a list is a dict of x (N, F),
    edges (E, 2), y and, optionally, `edge_features` (E, D); a tuple (x, edges, y); a `Graph`; or a
    `GraphsTuple`. The targets of GraphsTuples are given as `y`, one for each graph. Each pair of
    `edges` becomes an edge in both directions, unless `directed`; those of a `Graph` and of a
    `GraphsTuple` stay as they are. Columns: x (N, F), padded with 0 to the most nodes; `length`,
    the number of real nodes; edges (E, 2), padded with -1; `edge_features`; y. With `node_labels` y
    is (N,) for each graph, padded with -1. Raises `Error` with the number of the graph for what
    does not fit.
    """
    found = [_parts(n, item) for n, item in enumerate(_unbatched(source))]
    if not found:
        raise Error("graphs needs at least one graph.")
    if y is not None:
        if len(y) != len(found):
            raise Error(
                f"There are {len(found)} graphs and {len(y)} targets y. If a GraphsTuple was "
                "padded, unpad it first: jraph.unpad_with_graphs."
            )
        found = [{**parts, "y": target} for parts, target in zip(found, y, strict=True)]
    rows = [_checked(n, parts, found[0], directed) for n, parts in enumerate(found)]
    names = list(rows[0])
    sizes = {"x": max(len(r["x"]) for r in rows), "edges": max(1, *(len(r["edges"]) for r in rows))}
    sizes |= {"edge_features": sizes["edges"], "y": sizes["x"]}
    columns = {name: [row[name] for row in rows] for name in names}
    if node_labels:
        _check_node_labels(rows)
    for name, fill in (("x", 0), ("edges", -1), ("edge_features", 0), ("y", -1)):
        if name in columns and (name != "y" or node_labels):
            columns[name] = [_padded(values, sizes[name], fill) for values in columns[name]]
    return arrays(labels, length=[len(row["x"]) for row in rows], **columns)


def _unbatched(source: Any) -> Iterator[Any]:
    """The graphs of a source; a `GraphsTuple` holds several, one after the other."""
    for item in [source] if hasattr(source, "senders") else source:
        if not hasattr(item, "senders"):
            yield item
            continue
        if item.nodes is None:
            raise Error("A GraphsTuple needs node features, nodes (N, F).")
        ends = np.stack([np.asarray(item.senders), np.asarray(item.receivers)], 1)
        node = edge = 0
        counts = (np.ravel(np.asarray(item.n_node)), np.ravel(np.asarray(item.n_edge)))
        for nodes, edges in zip(*counts, strict=True):
            parts = {
                "x": np.asarray(item.nodes)[node : node + nodes],
                "edges": ends[edge : edge + edges] - node,
                "directed": True,
            }
            if item.edges is not None:
                parts["edge_features"] = np.asarray(item.edges)[edge : edge + edges]
            yield parts
            node, edge = node + nodes, edge + edges


def _parts(number: int, item: Any) -> Parts:
    """A graph's parts by name."""
    if isinstance(item, Mapping):
        return item
    if isinstance(item, tuple | list):
        if not 2 <= len(item) <= 3:
            raise Error(f"Graph {number} is a tuple of {len(item)}, but must be (x, edges, y).")
        return dict(zip(("x", "edges", "y"), item, strict=False))
    if isinstance(item, Graph):
        parts = {"x": item.x, "edges": item.edges, "y": item.y, "directed": True}
        extra = {} if item.edge_features is None else {"edge_features": item.edge_features}
        return parts | extra
    raise Error(
        f"Graph {number} is a {type(item).__name__}: give a dict of x, edges and y for each graph."
    )


def _checked(number: int, parts: Parts, first: Parts, directed: bool) -> dict[str, np.ndarray]:
    """The arrays of a graph, which has the same parts as the first."""
    wanted = [name for name in ("x", "edges", "edge_features", "y") if name in first]
    missing = [name for name in ("x", "edges", *wanted) if name not in parts]
    if missing:
        raise Error(f"Graph {number} has no {missing[0]}.")
    x, edges = np.asarray(parts["x"], np.float32), np.asarray(parts["edges"])
    edges = edges.reshape(0, 2).astype(int) if not edges.size else edges
    if x.ndim != 2 or not len(x) or edges.ndim != 2 or edges.shape[1] != 2:
        raise Error(
            f"Graph {number} needs x (N, F), of at least one node, and edges (E, 2), not {x.shape} "
            f"and {edges.shape}."
        )
    try:
        features = parts["edge_features"] if "edge_features" in wanted else None
        as_they_are = directed or parts.get("directed", False)
        edges, features = unique_edges(len(x), edges, features, as_they_are)
    except Error as error:
        raise Error(f"Graph {number}: {error}") from error
    row = {"x": x, "edges": edges}
    if features is not None:
        row["edge_features"] = features
    return row | ({"y": np.asarray(parts["y"])} if "y" in wanted else {})


def _check_node_labels(rows: Sequence[dict[str, np.ndarray]]) -> None:
    for number, row in enumerate(rows):
        if "y" not in row or row["y"].shape != row["x"].shape[:1]:
            raise Error(
                f"Graph {number} needs a label y for each of its {len(row['x'])} nodes, not shape "
                f"{row['y'].shape if 'y' in row else '(none)'}."
            )


def _padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    padding = [(0, size - len(values)), *[(0, 0)] * (values.ndim - 1)]
    return np.pad(values, padding, constant_values=fill)
