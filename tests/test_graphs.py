"""Graphs: layers against products of matrices, orders of nodes, splits, links and neighbors.

Seen to fail: degrees without the node itself, messages sent backwards, negatives drawn among the
links, links of a directed graph, attention that is dropped in evaluation, or never.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_rows import Nodes
from model_table import TABLE
from ring_graph import ring
from sklearn.metrics import roc_auc_score

import jdl
from jdl.data.graphs import graph, knn_graph
from jdl.models.gnn import GAT, GCN, GNN, SAGE

NODES, FEATURES = 7, 4
PAIRS = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [4, 5], [5, 5], [1, 0]])  # 6 is alone
SMALL = graph(np.random.default_rng(0).normal(size=(NODES, FEATURES)), PAIRS, np.arange(NODES) % 2)
LAYERS = {"gcn": GCN, "sage": SAGE, "gat": partial(GAT, heads=2)}


def ran(layer, g=SMALL, width=6):
    """What a layer makes of the graph's nodes, and its parameters."""
    edges = np.concatenate([g.edges, np.full((3, 2), -1, np.int32)])[None]
    model = layer(width)
    params = model.init(jax.random.key(0), SMALL.x[None], SMALL.edges[None])
    return np.asarray(model.apply(params, g.x[None], edges)[0]), params["params"]


def matrix():
    """1 where a node of the column is heard by one of the row."""
    a = np.zeros((NODES, NODES), np.float32)
    a[SMALL.edges[:, 1], SMALL.edges[:, 0]] = 1
    return a


def test_edges_are_there_once_and_both_ways():
    assert len(SMALL.edges) == 2 * 6
    np.testing.assert_array_equal(matrix(), matrix().T)
    assert not matrix().diagonal().any()


def test_a_graph_convolution_is_a_product_of_matrices():
    out, params = ran(GCN)
    a = matrix() + np.eye(NODES, dtype=np.float32)
    root = np.diag(a.sum(1) ** -0.5)
    np.testing.assert_allclose(
        out, root @ a @ root @ SMALL.x @ params["Dense_0"]["kernel"], atol=1e-6
    )


def test_sage_adds_the_mean_of_the_neighbors():
    out, params = ran(SAGE)
    mean = matrix() / matrix().sum(1, keepdims=True).clip(1)
    wanted = SMALL.x @ params["self"]["kernel"] + mean @ SMALL.x @ params["neighbour"]["kernel"]
    np.testing.assert_allclose(out, wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("width", [6, 5])  # joined, and averaged
def test_attention_is_a_softmax_over_neighbors_and_itself(width):
    out, params = ran(LAYERS["gat"], width=width)
    params = jax.tree.map(np.asarray, params)
    x = (SMALL.x @ params["Dense_0"]["kernel"]).reshape(NODES, 2, -1)
    sends, receives = ((x * params[name]).sum(-1) for name in ("sender", "receiver"))
    scores = sends[None] + receives[:, None]
    scores = np.where(scores > 0, scores, 0.2 * scores)
    weights = np.exp(scores) * (matrix() + np.eye(NODES))[:, :, None]
    heard = np.einsum("rsh,shd->rhd", weights / weights.sum(1, keepdims=True), x)
    np.testing.assert_allclose(
        out, heard.reshape(NODES, -1) if width == 6 else heard.mean(1), atol=1e-5
    )


@pytest.mark.slow
def test_attention_drops_some_of_what_is_heard_in_training_alone():
    """Node 6 hears itself alone: of half of the weights dropped, a head has none or twice."""
    layer, (kept, params) = GAT(6, heads=2, dropout=0.5), ran(LAYERS["gat"])
    np.testing.assert_array_equal(ran(partial(GAT, heads=2, dropout=0.5))[0], kept)
    halves = set()
    for n in range(20):
        rngs = {"dropout": jax.random.key(n)}
        out = layer.apply({"params": params}, SMALL.x[None], SMALL.edges[None], True, rngs=rngs)[
            0, 6
        ]
        times = (out / kept[6]).reshape(2, 3)
        np.testing.assert_allclose(times, np.round(times[:, :1]).repeat(3, 1), atol=1e-5)
        halves |= {float(head) for head in np.round(times[:, 0])}
    assert halves == {0, 2}


@pytest.mark.parametrize("name", LAYERS)
def test_permuting_nodes_permutes_outputs(name):
    order = np.random.default_rng(1).permutation(NODES)
    place = np.argsort(order)
    other = graph(SMALL.x[order], place[PAIRS], SMALL.y[order])
    np.testing.assert_allclose(ran(LAYERS[name], other)[0], ran(LAYERS[name])[0][order], atol=1e-6)


@pytest.mark.parametrize(
    "row", [row for row in TABLE if isinstance(row, Nodes)], ids=lambda row: row.name
)
def test_padded_edges_and_graphs_beside_change_nothing(row):
    batch = row.batch()
    variables = jax.jit(row.model.init)(jax.random.key(0), *row.inputs(batch))
    run = jax.jit(row.model.apply)
    one = run(variables, batch["x"][2:3], batch["edges"][2:3, :-2])
    np.testing.assert_allclose(run(variables, *row.inputs(batch))[2:3], one, atol=1e-6)


def test_splits_are_of_different_nodes_and_by_the_seed():
    g = graph(np.zeros((90, 2)), PAIRS, np.arange(90) % 3)
    parts = [part.take(np.arange(1))["y"][0] for part in g.split_nodes(4, 10, 20, seed=5)]
    assert [(part >= 0).sum() for part in parts] == [12, 10, 20]
    assert (sum((part >= 0).astype(int) for part in parts) <= 1).all()
    assert np.bincount(parts[0][parts[0] >= 0]).tolist() == [4, 4, 4]
    again, other = (
        g.split_nodes(4, 10, 20, seed=seed)[0].take(np.arange(1))["y"][0] for seed in (5, 6)
    )
    np.testing.assert_array_equal(parts[0], again)
    assert (parts[0] != other).any()


@pytest.mark.parametrize("asked", [(31, 1, 1), (4, 60, 60), (0, 1, 1)])
def test_more_nodes_than_there_are_is_refused(asked):
    with pytest.raises(jdl.Error, match="ask for fewer"):
        graph(np.zeros((90, 2)), PAIRS, np.arange(90) % 3).split_nodes(*asked)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros(3), PAIRS, np.zeros(3)), "A graph needs"),
        ((np.zeros((5, 1)), PAIRS, np.zeros(5)), "nodes are 0 to 4"),
        ((np.zeros((9, 1)), PAIRS, np.zeros(8)), "A graph needs"),
    ],
)
def test_what_is_no_graph_is_refused(arrays, message):
    with pytest.raises(jdl.Error, match=message):
        graph(*arrays)


def test_hidden_links_are_hidden_and_others_join_nothing():
    g = ring(40)
    every = {tuple(edge) for edge in g.edges.tolist()}
    parts = [part.take(np.arange(1)) for part in g.split_links(0.1, 0.2)]
    kept = {tuple(edge) for edge in parts[0]["edges"][0].tolist()}
    shown = [{tuple(pair) for pair in part["links"][0].tolist()} for part in parts]
    assert [len(pairs) for pairs in shown] == [56, 8, 16]
    assert len(set.union(*shown)) == 80
    assert not kept & (shown[1] | shown[2])
    for part in parts[1:]:
        others = [tuple(pair) for pair in part["negatives"][0].tolist()]
        assert len(set(others)) == part["links"].shape[1]
        assert not every & set(others)
        np.testing.assert_array_equal(part["edges"], parts[0]["edges"])
    with pytest.raises(jdl.Error, match="above 0"):
        g.split_links(0.5, 0.5)
    with pytest.raises(jdl.Error, match="edges are too few: valid and test would have 0 and 0"):
        ring(4).split_links(0.05, 0.05)


@pytest.mark.parametrize("split", ["split_links", "split_link_rows"])
def test_links_of_a_directed_graph_are_refused(split):
    g = graph(np.eye(7), PAIRS, np.zeros(7), directed=True)
    with pytest.raises(jdl.Error, match="undirected graph, but of the 6 pairs"):
        getattr(g, split)(0.2, 0.2)


@pytest.mark.slow
def test_the_area_under_the_curve_is_that_of_scikit_learn():
    part = ring(40).split_links(0.1, 0.2)[2].take(np.arange(1))
    batch = {name: jnp.asarray(column) for name, column in part.items()}
    objective = jdl.objectives.link_prediction(GNN(6, (8,), SAGE))
    variables = jax.jit(objective.init)(jax.random.key(0), batch)
    found = objective.loss(variables, batch, jax.random.key(1), False).metrics["auc"].value()
    codes = np.asarray(objective.predict(variables, batch)["code"][0], np.float64)
    pairs = np.concatenate([part["links"][0], part["negatives"][0]])
    said = (codes[pairs[:, 0]] * codes[pairs[:, 1]]).sum(1)
    assert float(found) == pytest.approx(
        roc_auc_score(np.arange(len(pairs)) < len(pairs) // 2, said), abs=1e-6
    )


@pytest.mark.slow
def test_nearest_rows_are_joined():
    g = knn_graph(np.array([[0.0], [1.0], [10.0], [12.0]]), np.zeros(4), 1)
    assert {tuple(edge) for edge in g.edges.tolist()} == {(0, 1), (1, 0), (2, 3), (3, 2)}
    tied = knn_graph(np.array([[-1.0], [-1.25], [1.0], [1.25], [0.0]]), np.zeros(5), 1)
    joined = {tuple(edge) for edge in tied.edges.tolist()}  # the last row: with the first of two
    assert joined == {(0, 1), (1, 0), (2, 3), (3, 2), (0, 4), (4, 0)}
    with pytest.raises(jdl.Error, match="from 1 to 4, not 5"):
        knn_graph(np.zeros((5, 1)), np.zeros(5), 5)
