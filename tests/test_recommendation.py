"""Recommendation: interactions and their splits, the metrics, the losses, ranked items by name.

Seen to fail: with rows in the order of the file in place of their times; with repeated items kept;
with the test's item in validation; with padding shuffled among the items; with ties counted as
found; with items that a user has among the recommended; with negatives that a row has counted;
without y as the last target; with a start that can be recommended. Two towers: without the log-Q
correction, or with one of the target; with the user's own items as negatives; with negatives of one
device alone; with a user's own targets, or one for all, in how often an item is expected; with
shares for counts; with users of all their items; with random embeddings of items with features.
"""

from itertools import permutations
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score, top_k_accuracy_score

import jdl
from jdl.data import corpus, interactions
from jdl.data.stdlib_imports import imports
from jdl.inspect.recommended import recommended_rows
from jdl.layers import BATCH_AXIS
from jdl.metrics import ndcg_at_k, recall_at_k
from jdl.models.factorization import MatrixFactorization
from jdl.models.mlp import MLP
from jdl.models.sasrec import SASRec
from jdl.models.transformer import TransformerConfig
from jdl.models.two_towers import TwoTowers
from jdl.objectives import predict_all, recommend
from jdl.types import Error

TABLE = """who,what,when
ada,tea,2026-11-03
bob,milk,2026-11-01
ada,bread,2026-11-01
ada,jam,2026-11-02T10:00:00
ada,tea,2026-11-09
ada,milk,2026-11-04
cid,jam,2026-11-01
"""
NAMES = {"user": "who", "item": "what", "time": "when"}


@pytest.fixture
def table(tmp_path):
    (tmp_path / "had.csv").write_text(TABLE)
    return tmp_path / "had.csv"


def test_the_last_items_of_a_user_are_held_out(table):
    train, valid, test = interactions(table, **NAMES)
    assert train.labels == ("<start>", "bread", "jam", "milk", "tea")
    assert train.users == ("ada", "bob", "cid")
    rows = {
        name: [
            (part.users[user], [part.labels[n] for n in x[1:length]], part.labels[y])
            for user, x, length, y in zip(
                *(part.columns[column] for column in ("user", "x", "length", "y")), strict=True
            )
        ]
        for name, part in (("train", train), ("valid", valid), ("test", test))
    }
    assert rows == {
        "train": [("ada", ["bread"], "jam"), ("bob", [], "milk"), ("cid", [], "jam")],
        "valid": [("ada", ["bread", "jam"], "tea")],
        "test": [("ada", ["bread", "jam", "tea"], "milk")],
    }
    assert (test.columns["x"][:, 0] == 0).all()
    assert train.max_length == 8
    assert train.item_counts.tolist() == [0, 1, 2, 1, 0]
    short = interactions({"u": [7] * 5, "i": range(5)}, "u", "i", max_length=3)[2]
    assert [short.labels[n] for n in short.columns["x"][0]] == ["<start>", "2", "3"]


def test_shuffled_items_are_the_same_items():
    example = {"x": jnp.asarray([0, 3, 1, 0, 0]), "length": jnp.asarray(3), "y": jnp.asarray(2)}
    keys = jax.random.split(jax.random.key(0), 40)
    found = jax.vmap(jdl.data.shuffle_items, (0, None))(keys, example)
    rows = np.concatenate([found["x"], found["y"][:, None]], 1)
    assert (rows[:, [0, 3, 4]] == 0).all()
    assert {tuple(row) for row in rows[:, [1, 2, 5]].tolist()} == set(permutations((1, 2, 3)))


WRONG = {
    "time": (
        {"user": "aaa", "item": "bcd", "t": [1, "soon", 3]},
        {"time": "t"},
        "Row 1 has 'soon'",
    ),
    "nan": ({"user": "aaa", "item": "bcd", "t": [1, 2, float("nan")]}, {"time": "t"}, "Row 2 has"),
    "dates": (
        {"user": "aaa", "item": "bcd", "t": ["20260102", "2026-01-03", "2026-01-04"]},
        {"time": "t"},
        "numbers beside dates",
    ),
    "column": ({"user": "aaa"}, {}, "have user, item"),
    "few": ({"user": "aabb", "item": "xyxy"}, {}, "None of 2 users has three"),
    "lengths": ({"user": "aaa", "item": "bc"}, {}, "same number of rows"),
    "empty": ({"user": "aaa", "item": ["b", " ", "d"]}, {}, "Row 1 has an empty text"),
    "short": ({"user": "aaa", "item": "bcd"}, {"max_length": 1}, "at least 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_interactions_are_refused(name):
    columns, options, message = WRONG[name]
    with pytest.raises(Error, match=message):
        interactions({**columns, "user": list(columns["user"])}, **options)


def test_imports_are_read_in_their_order_without_relative_ones(monkeypatch):
    source = (
        "import os.path, re\nfrom . import sys\ndef f():\n    from ast import parse\nimport os\n"
    )
    assert imports(source) == ["os", "re", "ast"]
    monkeypatch.setattr(corpus, "stdlib", lambda: [source, "x = 1\n", "import re"])
    train, _, test = jdl.data.stdlib_imports()
    assert (train.users, test.labels[int(test.columns["y"][0])]) == (("0", "2"), "ast")


@pytest.mark.slow
def test_metrics_are_those_of_scikit_learn_ties_included():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 12)).astype(np.float32)  # with many ties
    labels, mask = rng.integers(0, 12, 40), rng.random(40) < 0.7
    ours = float(ndcg_at_k(jnp.asarray(scores), jnp.asarray(labels), 5, jnp.asarray(mask)).value())
    relevant = np.eye(12)[labels]
    assert ours == pytest.approx(ndcg_score(relevant[mask], scores[mask], k=5), abs=1e-6)
    distinct = rng.permuted(np.tile(np.arange(12.0), (40, 1)), axis=1)
    ours = float(recall_at_k(jnp.asarray(distinct), jnp.asarray(labels), 5).value())
    assert ours == pytest.approx(top_k_accuracy_score(labels, distinct, k=5))
    distinct[:, 3] = np.nan  # of a model that diverged
    assert np.isnan(float(recall_at_k(jnp.asarray(distinct), jnp.asarray(labels), 5).value()))
    one = jnp.zeros((1, 12))  # where nothing is known: 5 of 12
    assert float(recall_at_k(one, jnp.asarray([3]), 5).value()) == pytest.approx(5 / 12)
    assert float(recall_at_k(one.at[0, 3].set(-jnp.inf), jnp.asarray([3]), 12).value()) == 0


class Scores:
    """A model without parameters that scores items by their numbers."""

    @staticmethod
    def init(key, x):
        return {"zero": jnp.zeros(())}

    @staticmethod
    def apply(params, x, candidates=None):
        numbers = jnp.arange(6) if candidates is None else candidates
        numbers = jnp.broadcast_to(numbers, (*x.shape, numbers.shape[-1]))
        return numbers.astype(jnp.float32) + params["zero"]


BATCH = {
    "x": jnp.asarray([[0, 5, 2, 0], [0, 0, 0, 0], [0, 1, 2, 3]]),
    "length": jnp.asarray([3, 1, 4]),
    "y": jnp.asarray([4, 1, 5]),
    "mask": jnp.asarray([True, True, False]),
}
TARGETS = [5, 2, 4, 1]  # of real rows: the items after the start, and y


@pytest.mark.slow
def test_losses_are_those_of_the_papers_over_the_items_of_real_rows():
    model = jdl.Model(Scores.init, Scores.apply)
    objective = recommend(model)
    variables = objective.init(jax.random.key(0), BATCH)
    found = objective.loss(variables, BATCH, jax.random.key(1), True).loss
    log_sum = np.log(np.exp(np.arange(1, 6)).sum())  # without the start
    assert float(found.value()) == pytest.approx(log_sum - np.mean(TARGETS), rel=1e-5)
    found = recommend(model, "bpr", negatives=400).loss(variables, BATCH, jax.random.key(1), True)
    rows = {5: [1, 3], 2: [1, 3], 4: [1, 3], 1: [2, 3, 4, 5]}  # what the row's user does not have
    means = [np.mean([np.log1p(np.exp(n - t)) for n in negatives]) for t, negatives in rows.items()]
    assert float(found.loss.value()) == pytest.approx(np.mean(means), rel=0.05)
    sampled = recommend(model, negatives=400).loss(variables, BATCH, jax.random.key(1), True)
    assert float(sampled.loss.count) == 4
    expected = [
        np.log(np.exp(t) + 400 * len(n) / 5 * np.mean(np.exp(n))) - t for t, n in rows.items()
    ]
    assert float(sampled.loss.value()) == pytest.approx(np.mean(expected), rel=0.02)


def test_in_batch_negatives_are_all_that_other_users_have_where_the_batch_is_all_data():
    model = jdl.Model(Scores.init, Scores.apply)
    copies = jax.tree.map(lambda column: jnp.concatenate([column] * 2), BATCH)  # each user twice
    sums = {t: np.exp(t) + np.exp(1) for t in (5, 2, 4)} | {1: np.exp(TARGETS).sum()}
    mean = np.mean([np.log(sums[t]) - t for t in TARGETS])
    for batch, times in ((BATCH, 1), (copies, 2)):
        counts = times * np.bincount(TARGETS, minlength=6)
        objective = recommend(model, "in_batch", counts=counts)
        variables = objective.init(jax.random.key(0), BATCH)
        found = jax.jit(objective.loss, static_argnums=3)(
            variables, batch, jax.random.key(1), True
        ).loss
        assert float(found.count) == 4 * times
        assert float(found.value()) == pytest.approx(mean, rel=1e-5)

    def part(rows):
        return objective.loss(variables, rows, jax.random.key(1), True).loss

    halves = jax.tree.map(lambda column: column.reshape(2, 3, *column.shape[1:]), copies)
    parts = jax.jit(jax.vmap(part, axis_name=BATCH_AXIS))(halves)  # as on two devices
    assert float(parts.total.sum() / 8) == pytest.approx(mean, rel=1e-5)


class Biases:
    """A model of a number for each item, whoever the user is: how popular it is."""

    @staticmethod
    def init(key, x):
        return {"bias": jnp.asarray([0.0, 0.4, -0.3, 1.0, 0.1])}

    @staticmethod
    def apply(params, x, candidates=None):
        scores = params["bias"] if candidates is None else params["bias"][candidates]
        return jnp.broadcast_to(scores, (len(x), *scores.shape))


def test_by_the_log_q_correction_popular_items_are_not_pushed_down():
    """With all rows in the batch the loss and its gradient are those of the softmax of all."""
    y = np.repeat([1, 2, 3, 4], [1, 2, 4, 8])
    rows = {"x": np.zeros((15, 1), np.int32), "length": np.ones(15, np.int32), "y": y}
    batch = {name: jnp.asarray(column, jnp.int32) for name, column in rows.items()}
    model = jdl.Model(Biases.init, Biases.apply)

    def loss_and_gradient(objective):
        def loss(variables):
            return objective.loss(variables, batch, jax.random.key(1), True).loss.value()

        found, gradient = jax.jit(jax.value_and_grad(loss))(
            objective.init(jax.random.key(0), batch)
        )
        return np.append(jax.tree.leaves(gradient)[0], found)

    of_all = loss_and_gradient(recommend(model))
    corrected = loss_and_gradient(recommend(model, "in_batch", counts=np.bincount(y)))
    np.testing.assert_allclose(corrected, of_all, atol=1e-6)
    uniform = loss_and_gradient(recommend(model, "in_batch", counts=[0, 1, 1, 1, 1]))
    assert uniform[4] > of_all[4] + 0.1  # descent pushes the most popular down


@pytest.mark.parametrize("most", [1, 3])
def test_small_batches_have_on_average_the_loss_among_all_that_a_user_does_not_have(most):
    """Four users of 60 in a batch, who have up to `most` of 20 items each."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, most + 1, 60)
    popularity = np.arange(1, 21) / 210
    had = [1 + random.choice(20, length, False, popularity) for length in lengths]
    items = np.stack([np.pad(row, (0, most - len(row))) for row in had])
    before = np.pad(items, ((0, 0), (1, 0)))[:, :-1]
    data = {"x": before, "length": lengths, "y": items[np.arange(60), lengths - 1]}
    counts = np.bincount(np.concatenate(had), minlength=21)
    scores = np.log(counts.clip(1)) + random.normal(0, 0.1, 21)
    losses = [
        np.log(np.exp(scores[t]) + np.exp(np.delete(scores, [0, *row])).sum()) - scores[t]
        for row in had
        for t in row
    ]
    objective = recommend(
        jdl.Model(lambda key, x: {"bias": jnp.asarray(scores, jnp.float32)}, Biases.apply),
        "in_batch",
        counts=counts,
    )
    columns = {name: jnp.asarray(column, jnp.int32) for name, column in data.items()}
    variables = objective.init(jax.random.key(0), columns)

    def loss(key):
        rows = jax.random.permutation(key, 60)[:4]
        batch = {name: column[rows] for name, column in columns.items()}
        return objective.loss(variables, batch, key, True).loss

    found = jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(0), 3000))
    average = float(found.total.sum() / found.count.sum())
    assert average == pytest.approx(np.mean(losses), abs=0.05)  # a log of a mean, a mean of logs


def test_users_are_of_the_items_before_and_untrained_items_of_their_features():
    features = np.asarray([[0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [1, 1]], np.float32)
    model = TwoTowers(6, 4, (3,), features=features)
    variables = jax.jit(model.init)(jax.random.key(0), BATCH["x"])
    apply = jax.jit(model.apply)
    scores = np.asarray(apply(variables, BATCH["x"]))
    np.testing.assert_array_equal(scores[:, 1:, 1], scores[:, 1:, 3])  # the same features
    assert (scores[0, 1:, 1] != scores[0, 1:, 2]).all()
    for place in (1, 2, 3):  # the target of the step before
        changed = np.asarray(apply(variables, BATCH["x"].at[0, place].set(1)))
        np.testing.assert_array_equal(changed[0, :place], scores[0, :place])
        assert (changed[0, place:] != scores[0, place:]).any(1).all()


def test_what_a_user_has_is_not_recommended_again():
    objective = recommend(jdl.Model(Scores.init, Scores.apply), k=1)
    variables = objective.init(jax.random.key(0), BATCH)
    found = objective.predict(variables, BATCH)
    assert found["items"][0, :3].tolist() == [4, 3, 1]
    assert found["score"][0, 3:].tolist() == [-np.inf] * 2
    scores = objective.loss(variables, BATCH, jax.random.key(1), False).metrics
    assert float(scores["recall_at_1"].value()) == 0.5
    rows = recommended_rows(["ada", "bob", "cid"], jax.tree.map(np.asarray, found), "-abcde")
    assert [(row["input"], row["rank"], row["item"]) for row in rows[:4]] == [
        ("ada", 1, "d"), ("ada", 2, "c"), ("ada", 3, "a"), ("bob", 1, "e"),
    ]  # fmt: skip


def scores_of(model, given, items):
    """The scores of all items, of items (B, T, K), and of the first of these for all alike."""
    variables = model.init(jax.random.key(0), given)
    candidates = None, items, items[0, 0]
    return [model.apply(variables, given, candidates=chosen) for chosen in candidates]


@pytest.mark.slow
def test_candidates_have_the_scores_that_they_have_among_all():
    items = jnp.asarray(np.random.default_rng(0).integers(0, 6, (3, 4, 2)))
    sizes = TransformerConfig(8, 1, heads=1, max_length=4)
    for model, given in (
        (SASRec(6, sizes), BATCH["x"]),
        (MatrixFactorization(3, 6, 4), jnp.arange(3)),
        (TwoTowers(6, 4), BATCH["x"]),
    ):
        scores, found, shared = jax.jit(scores_of, static_argnums=0)(model, given, items)
        if scores.ndim == 2:  # of a user, at every step
            scores, shared = (jnp.repeat(found[:, None], 4, 1) for found in (scores, shared))
        np.testing.assert_allclose(found, jnp.take_along_axis(scores, items, 2), rtol=1e-5)
        np.testing.assert_allclose(shared, scores[..., items[0, 0]], rtol=1e-5)


CHECKS = {
    "items": ({"y": jnp.asarray([4, 9, 5])}, "column y is from 4 to 9, and must be from 1 to 5"),
    "start": ({"y": jnp.asarray([0, 1, 5])}, "column y is from 0 to 5"),
    "floats": ({"x": BATCH["x"].astype(jnp.float32)}, "x is float32"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_data_that_do_not_fit_are_refused(name):
    change, message = CHECKS[name]
    columns = {name: np.asarray(column) for name, column in {**BATCH, **change}.items()}
    data = jdl.data.arrays(**{n: c for n, c in columns.items() if n != "mask"}).batches(3)
    objective = recommend(jdl.Model(Scores.init, Scores.apply))
    with pytest.raises(Error, match=message):
        objective.check(data.spec, data.bounds)


def test_lengths_of_a_loader_of_ones_own_are_checked():
    columns = {name: np.asarray(column) for name, column in BATCH.items() if name != "mask"}
    data = jdl.data.arrays(**columns).batches(3)
    with pytest.raises(Error, match="length is from 0 to 4"):
        recommend(jdl.Model(Scores.init, Scores.apply)).check(
            data.spec, {**data.bounds, "length": (0, 4)}
        )


def test_a_model_without_candidates_cannot_have_negatives():
    with pytest.raises(Error, match="argument candidates"):
        recommend(MLP(3), "bpr")


@pytest.mark.parametrize(
    ("loss", "counts", "message"),
    [
        ("in_batch", None, "needs counts"),
        ("softmax", [0, 1], "The other losses take none"),
        ("in_batch", [0, -1, 2], "how often each item"),
        ("in_batch", [0, 0], "how often each item"),
        ("in_batch", [0, 0.5, 0.5], "whole numbers"),
    ],
)
def test_counts_that_say_nothing_are_refused(loss, counts, message):
    with pytest.raises(Error, match=message):
        recommend(jdl.Model(Scores.init, Scores.apply), loss, counts=counts)


def test_counts_of_other_items_are_refused():
    objective = recommend(jdl.Model(Scores.init, Scores.apply), "in_batch", counts=[0, 1, 2])
    with pytest.raises(Error, match="counts are of 3 items, and the model scores 6"):
        objective.check({n: c for n, c in BATCH.items() if n != "mask"}, {})


@pytest.mark.parametrize("features", [np.ones((5, 2)), csr_matrix(np.ones((6, 2)))])
def test_features_of_other_items_are_refused(features):
    with pytest.raises(Error, match=r"and must be \(6, F\)"):
        TwoTowers(6, features=features).init(jax.random.key(0), BATCH["x"])


@pytest.mark.slow
def test_predictions_are_for_the_users_of_a_file(table, tmp_path):
    train, _, test = interactions(table, **NAMES)
    objective = recommend(SASRec(len(train.labels), TransformerConfig(8, 1, 1, max_length=8)))
    variables = objective.init(jax.random.key(0), train.batches(2)[0])
    new = Path(tmp_path / "new.csv")
    new.write_text("who,what,when\nzoe,milk,2\nzoe,tea,1\nzoe,yak,3\n")
    with pytest.warns(UserWarning, match="1 items are not in the training data, such as 'yak'"):
        names, columns = test.read_file(new)
    assert names == ["zoe"]
    assert [test.labels[n] for n in columns["x"][0, :3]] == ["<start>", "tea", "milk"]
    assert "user" not in columns
    assert test.read_file(table)[1]["user"].tolist() == [0, 1, 2]
    found = predict_all(objective, variables, jdl.data.arrays(**columns, y=[1]).batches(1))
    rows = recommended_rows(names, found, test.labels)
    assert {row["item"] for row in rows} == {"bread", "jam"}
