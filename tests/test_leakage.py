"""Data leakage and the first look at data: what is there is found, counted and said.

Seen to fail: rows compared with themselves or by x alone, labels of other rows, groups of the first
split alone, padding that is compared; padding among the values, NaN among them, a sample of the
first rows.
"""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from image_table import IMAGES, ROWS

import jdl
from jdl.data import arrays, leakage, look

X = np.arange(20, dtype=np.float32).reshape(10, 2)


def test_rows_on_both_sides_are_found_with_their_labels_and_groups(monkeypatch):
    monkeypatch.setattr(importlib.import_module("jdl.data.leakage"), "PART", 3)
    train = arrays(x=X[[0, 1, 2, 3, 1, 4]], y=[1, 0, 0, 0, 1, 0], patient=[1, 1, 2, 3, 3, 4])
    test = arrays(x=X[[5, 3, 1, 6]], y=[0, 1, 0, 0], patient=[3, 5, 6, 4])
    found = leakage(train=train, test=test, group="patient")
    assert found
    (between,), (within,), (groups,) = found.between, found.within, found.groups
    assert (between.count, between.rows, between.pairs) == (2, 4, ((3, 1), (1, 2)))
    assert between.other_label == 1
    assert (within.first, within.second, within.pairs) == ("train", "train", ((1, 4),))
    assert within.other_label == 1
    assert (groups.count, groups.values) == (2, (3, 4))
    text = str(found)
    assert "Rows of test that equal a row of train: 2 of 4, 1 with another y" in text
    assert "(1 equals 3, 2 equals 1)" in text
    assert "Rows of train that equal an earlier row: 1 of 6" in text
    assert "Groups that are in both train and test: 2 (3, 4)" in text


def test_no_leakage_is_said_too_and_columns_can_be_chosen():
    data = arrays(a=np.arange(6), b=np.arange(6) % 2, y=np.zeros(6))
    first, second = data.split(0.5, 0.5)
    clean = leakage(first=first, second=second)
    assert not clean
    assert clean.columns == ("a", "b")
    assert str(clean) == "No row comes twice, comparing a, b byte by byte"
    assert leakage(first=first, second=second, columns=["b"]).between[0].count == 3
    assert leakage(first=first, second=second, columns=["b"], limit=1).within == ()
    with pytest.raises(jdl.Error, match="no column 'c'; the columns are a, b, y"):
        leakage(first=first, second=second, columns=["c"])
    with pytest.raises(jdl.Error, match="no column 'g'"):
        leakage(first=first, second=second, group="g")
    with pytest.raises(jdl.Error, match="by name"):
        leakage()


def test_sequences_are_compared_without_their_padding():
    train = arrays(x=[[1, 2, 0, 0], [3, 4, 5, 6]], length=[2, 4])
    test = arrays(x=[[1, 2, 0], [3, 4, 5]], length=[2, 3])
    assert leakage(train=train, test=test).between[0].pairs == ((0, 0),)


def test_rows_are_equal_only_if_their_categories_and_edges_are():
    codes = [[2, 3], [2, 4], [2, 3]]
    for x in (np.full((3, 1), 30.0), np.zeros((3, 0))):  # of one age, or of categories alone
        (found,) = leakage(data=arrays(x=x, codes=codes, weight=[1, 2, 3])).within
        assert found.pairs == ((0, 2),)
    short, long = ((np.ones((3, 1)), [(a, a + 1) for a in range(n)], 0) for n in (1, 2))
    found = leakage(train=jdl.data.graphs([short, long]), test=jdl.data.graphs([short]))
    assert found.columns == ("x", "edges")
    assert ([between.pairs for between in found.between], found.within) == ([((0, 0),)], ())


def test_groups_are_shown_as_they_are():
    data = arrays(x=X, patient=10_000_000 + np.arange(10) // 10)
    assert "1 (10000000)" in str(leakage(a=data, b=data, group="patient"))


def test_folds_of_a_dataset_with_duplicates_leak_unless_grouped():
    x = np.repeat(X, 3, 0)
    groups = np.repeat(np.arange(10), 3)
    assert all(leakage(a=a, b=b) for a, b in arrays(x=x).folds(3))
    assert not any(leakage(a=a, b=b) for a, b in arrays(x=x).folds(3, group=groups))


def test_a_look_has_the_facts_of_each_split():
    train = arrays(x=IMAGES, y=np.arange(ROWS) % 4 - 1, labels="abc")
    test = arrays(x=IMAGES[:5], y=np.arange(5) % 3)
    seen = look(train=train.shuffled(8, 0, balance="y"), test=test)
    facts = seen.splits["train"]
    assert (facts.rows, facts.read, facts.batches, facts.batch_size) == (ROWS, ROWS, 3, 8)
    x, y = facts.columns["x"], facts.columns["y"]
    assert (x.dtype, x.shape, x.count) == ("float32", IMAGES.shape[1:], IMAGES.size)
    assert (x.low, x.high) == pytest.approx((IMAGES.min() / 255, IMAGES.max() / 255))
    assert x.total / x.count == pytest.approx(IMAGES.mean() / 255, rel=1e-5)
    assert (y.missing, y.zeros) == (6, 6)
    assert facts.classes == {0: 6, 1: 6, 2: 5}
    assert sum(facts.drawn.values()) < ROWS  # those with -1 are drawn too
    assert seen.leakage.between[0].count == 5
    text = str(seen)
    for line in (
        "train  23 rows, 3 batches of 8 an epoch",
        "b ",
        "26.1% are -1",
        "train, as drawn",
    ):
        assert line in text
    assert "Rows of test that equal a row of train: 5 of 5" in text


def test_a_look_at_sequences_several_labels_and_broken_values():
    x = np.where(np.arange(6) < np.asarray([2, 4, 6])[:, None], 7, 0)
    sequences = arrays(x=x, length=[2, 4, 6], y=[[1, 0], [1, 1], [1, 0]], labels=["cat", "dog"])
    facts = look(data=sequences.batches(2)).splits["data"]
    assert facts.columns["x"].low == 7  # padding is not counted
    assert facts.classes == {0: 3, 1: 1}
    assert facts.lengths["length"].tolist() == [2, 4, 6]
    broken = arrays(x=np.arange(4.0)).map(lambda key, row: {**row, "x": jnp.log(row["x"])})
    column = look(data=broken).splits["data"].columns["x"]
    assert (column.count, column.not_finite, column.low) == (3, 1, 0.0)
    assert "1 NaN or infinite" in str(broken.look())
    wrong = arrays(x=np.arange(4.0)).map(lambda key, row: {"x": row["x"] @ row["x"], **row})
    with pytest.raises(jdl.Error, match="batches of data cannot be made: ValueError"):
        wrong.look()
    with pytest.raises(jdl.Error, match="no examples"):
        broken.select([]).look()
    with pytest.raises(jdl.Error, match="by name"):
        look()


def test_large_data_is_looked_at_by_a_sample_and_it_is_said():
    data = arrays(x=np.arange(1000), y=np.repeat([0, 1], 500))
    seen = look(train=data, limit=400 * 8)
    facts = seen.splits["train"]
    assert 256 <= facts.read < 1000
    assert min(facts.classes[k] for k in (0, 1)) > facts.read / 3  # at random: not the first rows
    assert f"read here: {facts.read} rows, drawn at random" in str(seen)
    assert f"Only the first {facts.read} rows" in str(seen)


def test_a_graph_is_looked_at_by_its_nodes():
    x = np.asarray([[1, 0], [0, 1], [1, 0], [2, 2], [1, 0], [3, 3]], np.float32)
    graph = jdl.data.graph(x, [(0, 1), (2, 3), (4, 5)], [0, 1, 0, 1, 0, 1], labels=["p", "q"])
    train, valid, test = graph.split_nodes(1, 2, 2)
    seen = look(train=train, valid=valid, test=test)
    assert seen.splits["train"].classes == {0: 1, 1: 1}
    assert "one graph of 6 nodes and 6 edges" in str(seen)
    assert seen.leakage.columns == ("x",)
    equal = [(a.first, a.second, a.count) for a in (*seen.leakage.between, *seen.leakage.within)]
    rows = {
        name: x[part.columns["y"][0] >= 0]
        for name, part in (("train", train), ("valid", valid), ("test", test))
    }
    for first, second, count in equal:
        if first != second:
            assert count == sum((rows[first] == row).all(1).any() for row in rows[second])
