"""Neighbor sampling: what is drawn, what a node sees of the graph, and runs with it.

Seen to fail: neighbors drawn twice, the same in every epoch, only the first ones of many, the
edges of padding kept, a link that is left in its own row's graph, senders that are not ascending,
negatives with an edge and of a node with itself, copies of a row that are drawn for alike.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ring_graph import ring

import jdl
from jdl.data import arrays, graph
from jdl.data.neighbor_loader import _sample_distinct
from jdl.inspect.predict import predict
from jdl.models.gnn import GAT, GIN, GNN, SAGE
from jdl.train.preemption import PausedError

LAYERS = {"sage": SAGE, "gin": GIN, "gat": partial(GAT, heads=2)}
RNG = np.random.default_rng(0)
CROWD = np.arange(60) % 2


def crowds():
    """Two crowds whose features are of no use, but whose edges are; the last node is alone."""
    pairs = [(a, b) for a in range(60) for b in RNG.choice(np.flatnonzero(CROWD[a] == CROWD), 4)]
    return graph(np.eye(61), pairs, [*CROWD, 0])


GRAPH = crowds()
WHOLE = jnp.asarray(GRAPH.x[None]), jnp.asarray(GRAPH.edges[None])


def batches(loader, count):
    for i, source in zip(range(count), loader.read(), strict=False):
        batch = loader._jit_batch(source, jnp.asarray(i))
        jax.tree.map(np.testing.assert_array_equal, batch, loader[i])
        yield i, {name: np.asarray(column) for name, column in batch.items()}


def test_sampled_neighbors_are_different_ones_and_drawn_anew_in_every_epoch():
    g = ring(30)
    loader = g.neighbor_loader(g.node_rows().select(slice(20)).shuffled(8, 0), 3, 2)
    assert len(loader) == 3
    joined = {tuple(edge) for edge in g.edges.tolist()}
    drawn = {0: {}, 1: {}}
    for i, batch in batches(loader, 6):
        assert batch["x"].shape == (8, 1 + 3 + 6, 30)
        nodes, edges = batch["x"].argmax(-1), batch["edges"]
        for row in np.flatnonzero(batch["mask"]):
            assert {(nodes[row, a], nodes[row, b]) for a, b in edges[row]} <= joined
            assert all(len({*group}) == len(group) for group in (nodes[row, 1:4], nodes[row, 4:6]))
            drawn[i // 3][int(batch["id"][row])] = nodes[row].tolist()
        assert (batch["y"][:, 1:] == -1).all()
    first, second = drawn.values()
    assert first.keys() == second.keys()
    assert all(first[id][0] == second[id][0] == id for id in first)  # the one that is asked for
    assert sum(first[id] != second[id] for id in first) > 15


def test_numbers_are_drawn_without_replacement_and_equally_often():
    bits = jax.random.bits(jax.random.key(0), (4000, 3))
    drawn = np.asarray(_sample_distinct(bits, jnp.full(4000, 7)))
    assert all(len({*row}) == 3 for row in drawn.tolist())
    counts = np.bincount(drawn.ravel(), minlength=7)
    expected = 4000 * 3 / 7
    # Counts of draws without replacement vary less: by 4/7 of independent ones that are 6/7 of
    # their mean. So 4/6 of the chi-square of 6 degrees of freedom, 22.5 at p = 0.001.
    assert ((counts - expected) ** 2 / expected).sum() < 22.5 * 4 / 6
    few = np.asarray(_sample_distinct(bits[:3], jnp.array([0, 2, 3])))
    np.testing.assert_array_equal(few, [[0, 1, 2]] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_node_that_sees_all_neighbors_has_the_logits_of_the_whole_graph(name):
    """The last node has no neighbors, and the others fewer than are drawn."""
    model = GNN(3, (5,), LAYERS[name])
    variables = jax.jit(model.init)(jax.random.key(0), *WHOLE)
    apply = jax.jit(model.apply)
    whole = apply(variables, *WHOLE)[0]
    most = np.bincount(GRAPH.edges[:, 1]).max()
    rows = arrays(node=np.array([60, 3, 17]), y=np.zeros(3, int))
    batch = GRAPH.neighbor_loader(rows.batches(3), most, most + 1)[0]
    sampled = apply(variables, batch["x"], batch["edges"])[:, 0]
    np.testing.assert_allclose(sampled, whole[np.array([60, 3, 17])], atol=1e-5)


@pytest.mark.slow
def test_links_that_see_all_neighbors_have_the_logits_of_the_graph_without_them():
    model = GNN(3, (5,), SAGE)
    variables = jax.jit(model.init)(jax.random.key(0), *WHOLE)
    apply = jax.jit(model.apply)
    most = np.bincount(GRAPH.edges[:, 1]).max()
    links, negatives = GRAPH.edges[[0, 77]], np.array([[0, 1], [2, 7]])
    rows = arrays(link=links, negative=negatives)
    batch = GRAPH.link_neighbor_loader(rows.batches(2), most, most)[0]
    found = apply(variables, batch["x"], batch["edges"])
    np.testing.assert_array_equal(batch["links"][:, 0], [[0, 1]] * 2)
    np.testing.assert_array_equal(batch["negatives"][:, 0], [[2, 3]] * 2)
    for row, (link, negative) in enumerate(zip(links, negatives, strict=True)):
        own = (GRAPH.edges == link).all(1) | (GRAPH.edges == link[::-1]).all(1)
        edges = np.where(own[:, None], -1, GRAPH.edges)
        assert own.sum() == 2
        whole = apply(variables, WHOLE[0], edges[None])[0]
        np.testing.assert_allclose(found[row, :2], whole[link], atol=1e-5)
        np.testing.assert_allclose(found[row, 2:4], whole[negative], atol=1e-5)


@pytest.mark.slow
def test_the_nodes_of_a_link_have_as_many_neighbors_as_those_of_its_negative():
    """Else their number would tell which is which."""
    g = replace(ring(30), edges=ring(30).edges[::-1])
    joined = {node: {*g.edges[g.edges[:, 1] == node, 0].tolist()} for node in range(30)}
    rows = arrays(link=g.edges[g.edges[:, 0] < g.edges[:, 1]])
    for _, batch in batches(g.link_neighbor_loader(rows.shuffled(20, 0), 3, 2), 3):
        assert (batch["edges"] >= 0).all()
        for nodes, edges in zip(batch["x"].argmax(-1), batch["edges"], strict=True):
            link = {*nodes[:2].tolist()}
            assert link not in [{*pair} for pair in nodes[edges].tolist()]
            heard = [{*nodes[edges[edges[:, 1] == seed, 0]].tolist()} for seed in range(4)]
            assert [len(group) for group in heard] == [3] * 4
            assert all(heard[n] == joined[nodes[n]] - link for n in (0, 1))


def test_copies_of_a_row_in_an_epoch_have_different_neighbors():
    g = ring(30)
    weights = np.where(np.arange(30) == 7, 100.0, 1.0)
    loader = g.neighbor_loader(g.node_rows().shuffled(10, 0, weights=weights), 2)
    drawn = [
        tuple(nodes[1:])
        for _, batch in batches(loader, 3)
        for nodes in batch["x"].argmax(-1)
        if nodes[0] == 7
    ]
    assert len(drawn) > 20
    assert len({*drawn}) > 5


@pytest.mark.slow
def test_links_are_split_like_those_of_the_whole_graph_and_negatives_drawn_anew():
    g = ring(40)
    known, parts = g.split_link_rows(0.1, 0.2, seed=3)
    whole = [part.take(np.arange(1)) for part in g.split_links(0.1, 0.2, seed=3)]
    np.testing.assert_array_equal(known.edges, whole[0]["edges"][0])
    for part, one in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(part.columns["link"], one["links"][0])
    for part, one in zip(parts[1:], whole[1:], strict=True):
        np.testing.assert_array_equal(part.columns["negative"], one["negatives"][0])
    loader = known.link_neighbor_loader(parts[0].shuffled(8, 0), 2)
    linked = [{*edge} for edge in known.edges.tolist()]
    seen = {0: {}, 1: {}}
    for i, batch in batches(loader, 14):
        nodes = batch["x"].argmax(-1)[:, :4]
        np.testing.assert_array_equal(nodes[:, :2], parts[0].columns["link"][batch["id"]])
        assert all({a, b} not in linked and a != b for a, b in nodes[:, 2:].tolist())
        seen[i // 7] |= dict(zip(batch["id"].tolist(), nodes[:, 2:].tolist(), strict=True))
    assert len(seen[0]) == 56
    assert sum(seen[0][id] != seen[1][id] for id in seen[0]) > 50
    assert len({node for pair in seen[0].values() for node in pair}) > 30


def test_the_whole_graph_has_the_labels_of_some_rows():
    rows = GRAPH.node_rows().select(np.array([7, 60, 4]))
    (y,) = GRAPH.whole_graph(rows).columns["y"]
    assert np.flatnonzero(y >= 0).tolist() == [4, 7, 60]
    np.testing.assert_array_equal(y[[4, 7, 60]], GRAPH.y[[4, 7, 60]])


def test_a_neighbor_loader_is_described_by_its_nodes_and_its_graph():
    g = ring(30)
    nodes = g.node_rows().select(slice(20)).shuffled(8, 0)
    loader = g.neighbor_loader(nodes, 3, 2)
    assert (loader.batch_size, loader.num_examples, len(loader)) == (8, 20, 3)
    assert loader.bounds == {"y": (0, 0)}
    shapes = {name: (column.shape, column.dtype) for name, column in loader.spec.items()}
    assert shapes == {name: (column.shape, column.dtype) for name, column in loader[0].items()}
    other = graph(g.x, g.edges[(g.edges > 0).all(1)], g.y)
    loaders = [
        loader,
        g.neighbor_loader(nodes, 3, 3),
        other.neighbor_loader(nodes, 3, 2),
        g.neighbor_loader(g.node_rows().select(slice(19)).shuffled(8, 0), 3, 2),
    ]
    assert len({loader.fingerprint for loader in loaders}) == 4
    assert g.neighbor_loader(nodes, 3, 2).fingerprint == loader.fingerprint


def test_what_cannot_be_sampled_is_refused():
    g = ring(30)
    rows = g.node_rows()
    links = arrays(link=np.array([[0, 30]])).batches(1)
    for message, ask in (
        ("how many neighbors", lambda: g.neighbor_loader(rows.batches(8))),
        ("these have no node", lambda: g.neighbor_loader(links, 2)),
        ("these have no link", lambda: g.link_neighbor_loader(rows.batches(8), 2)),
        ("link has nodes from 0 to 30, but", lambda: g.link_neighbor_loader(links, 2)),
    ):
        with pytest.raises(jdl.Error, match=message):
            ask()


def test_a_part_of_a_neighbor_loader_reads_the_nodes_of_those_rows():
    g = ring(30)
    nodes = g.node_rows().select(slice(20)).streaming().shuffled(8, 0)
    loader = g.neighbor_loader(nodes, 3)
    whole, part = next(loader.read(1)), next(loader.shard(slice(2, 5)).read(1))
    for name, column in part["nodes"]["columns"].items():
        np.testing.assert_array_equal(column, whole["nodes"]["columns"][name][2:5])
    np.testing.assert_array_equal(part["graph"]["indices"], g.edges[:, 0])


def crowds_run(sampled=True, evaluated=True):
    parts = GRAPH.node_rows().split(0.3, 0.7, stratify="y")
    if sampled:
        train, test = (GRAPH.neighbor_loader(part.batches(16), 4, 4) for part in parts)
    else:
        train, test = (GRAPH.whole_graph(part).batches(1) for part in parts)
    objective = jdl.objectives.classify(GNN(2, (16,), SAGE))
    learner = jdl.descent(objective, jdl.optim.adamw(3e-2))
    config = jdl.Config(name="crowds", steps=40)
    return jdl.Run(config, learner, train, test=test if evaluated else None)


def run(root, sampled=True, evaluated=False, **options):
    options = jdl.Options(root=root, quiet=True, eval_every=0, save_every=0, **options)
    return jdl.fit(crowds_run(sampled, evaluated), options)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    return run(tmp_path_factory.mktemp("sampled"), evaluated=True)


@pytest.mark.slow
def test_a_small_graph_is_learned_sampled_and_whole(sampled, tmp_path):
    for result in (sampled, run(tmp_path, sampled=False, evaluated=True)):
        assert float(result.metrics["test"]["accuracy"].value()) >= 0.9


def test_predictions_for_files_are_refused_of_sampled_graphs(sampled):
    with pytest.raises(jdl.Error, match="crowds is evaluated on sampled graphs"):
        predict(jdl.restore(sampled.folder, crowds_run()), [])


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bits(sampled, tmp_path):
    with pytest.raises(PausedError):
        run(tmp_path, until=25)
    again = run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.state.params, sampled.state.params)


@pytest.mark.slow
def test_several_devices_train_alike(sampled, tmp_path):
    divided = run(tmp_path, devices=4)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-4),
        divided.state.params,
        sampled.state.params,
    )
