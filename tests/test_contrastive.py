"""Contrastive learning of pairs against plain loops: the loss, the ranks, each half alone.

Seen to fail: with ties that count as found, with x as the queries of both directions; without the
mask of padding, with one direction twice, without the bound of the temperature; without `y_length`,
with one tower for both; with lists of the next query, with colors of the next row, with an
embedding map of tokens, and documents that are embedded for each file of queries.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax

import jdl
from jdl import metrics
from jdl.figures.embedding import draw_embedding
from jdl.figures.retrieval import draw_retrieval
from jdl.inspect.predict import predict, to_csv
from jdl.inspect.restore import TrainedRun
from jdl.inspect.retrieval import to_color
from jdl.models.mlp import MLP
from jdl.models.rnn import RNN
from jdl.objectives import contrastive

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 3)).astype(np.float32)
Y = (X + 0.7 * RNG.normal(size=X.shape)).astype(np.float32)


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1


def identity():
    """A tower whose embeddings are its inputs."""
    return jdl.Model(lambda key, x: {}, lambda params, x: x)


def cosines(x, y):
    unit_x, unit_y = (c / np.linalg.norm(c, axis=1, keepdims=True) for c in (x, y))
    return unit_x.astype(np.float64) @ unit_y.T


def sorted_ranks(similarity):
    """The place of each row's own column in the row sorted by falling similarity, from 1."""
    return [1 + np.argsort(-row).tolist().index(i) for i, row in enumerate(similarity)]


@pytest.mark.parametrize("queries", ["x", "y"])
def test_ranks_are_among_the_rows_of_all_batches(queries):
    whole = sorted_ranks(cosines(X, Y) if queries == "x" else cosines(Y, X))
    assert len(set(whole)) > 2
    found = []
    for start in range(0, 11, 4):
        code, y_code = np.full((2, 5, 3), 9.0, np.float32)
        real = len(X[start : start + 4])
        code[:real], y_code[:real] = X[start : start + 4], Y[start : start + 4]
        columns = {"code": code, "y_code": y_code}, {"mask": np.arange(5) < real}
        found.append(
            [
                metrics.retrieval_recall(*columns, queries=queries),
                metrics.retrieval_recall(*columns, k=3, queries=queries),
                metrics.mean_reciprocal_rank(*columns, queries=queries),
            ]
        )
    values = [(a + b + c).on_host().value() for a, b, c in zip(*found, strict=True)]
    expected = [np.mean([r <= 1 for r in whole]), np.mean([r <= 3 for r in whole])]
    assert values == pytest.approx([*expected, np.mean([1 / r for r in whole])], abs=1e-12)


def test_embeddings_that_are_all_equal_find_nothing():
    same = {"code": np.ones((4, 3)), "y_code": np.ones((4, 3))}
    assert metrics.retrieval_recall(same, {}).value() == 0
    assert metrics.mean_reciprocal_rank(same, {}).value() == 0.25
    nan = {**same, "y_code": np.full((4, 3), np.nan)}
    assert math.isnan(metrics.retrieval_recall(nan, {}).value())
    with pytest.raises(jdl.Error, match="k, a number of documents"):
        metrics.retrieval_recall(same, {}, k=0)
    with pytest.raises(jdl.Error, match='queries must be "x" or "y"'):
        metrics.mean_reciprocal_rank(same, {}, queries="code")


def test_the_loss_is_the_cross_entropy_of_both_directions_without_padding():
    batch = {"x": np.concatenate([X, 9 * X[:2]]), "y": np.concatenate([Y, -9 * Y[:2]])}
    batch = {name: jnp.asarray(c) for name, c in batch.items()} | {"mask": jnp.arange(13) < 11}
    objective = contrastive(identity(), temperature=0.2)
    out = objective.loss(objective.init(KEY, batch), batch, KEY, False)
    logits = cosines(X, Y) / 0.2
    nats = [-np.diag(log_softmax(logits, axis)) for axis in (0, 1)]
    assert out.loss.count == 11
    assert float(out.loss.value()) == pytest.approx(np.mean(nats), rel=1e-5)
    at_5 = np.mean([rank <= 5 for rank in sorted_ranks(logits)])
    assert out.metrics["recall_at_5"].on_host().value() == pytest.approx(at_5)


def test_the_temperature_is_learned_down_to_its_bound():
    """Where each row is nearest to its own, colder is better, until 0.01."""
    rows = jnp.asarray([[1.0, 0.0], [1.0, 0.1]])
    batch = {"x": rows, "y": rows}
    objective = contrastive(identity(), temperature=0.5)
    variables = objective.init(KEY, batch)

    @jax.jit
    @jax.value_and_grad
    def loss(log_scale):
        params = {**variables["params"], "log_scale": log_scale}
        return objective.loss({**variables, "params": params}, batch, KEY, True).loss.value()

    def worse(log_scale):
        """Where each row is nearest to the other's, warmer is better: the way back is open."""
        params = {**variables["params"], "log_scale": log_scale}
        swapped = {"x": rows, "y": rows[::-1]}
        return objective.loss({**variables, "params": params}, swapped, KEY, True).loss.value()

    _, slope = loss(variables["params"]["log_scale"])
    assert slope < 0
    bound, _ = loss(jnp.asarray(math.log(100.0)))
    below, slope = loss(jnp.asarray(9.0))
    assert below == pytest.approx(float(bound), rel=1e-5)
    assert below > 0.3
    assert slope == 0  # colder would be better, and is not to be had
    assert jax.jit(jax.grad(worse))(jnp.asarray(9.0)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("y_tower", [None, RNN(5, (6,), vocab_size=9, embedding_width=3)])
def test_each_half_is_embedded_alone_by_its_own_tower_and_lengths(y_tower):
    x, y = RNG.integers(1, 9, (2, 4, 6)).astype(np.int32)
    length, y_length = np.int32([6, 2, 3, 5]), np.int32([1, 4, 6, 2])
    batch = {"x": x, "length": length, "y": y, "y_length": y_length}
    objective = contrastive(RNN(5, (4,), vocab_size=9, embedding_width=3), y_tower)
    variables, predict = jax.jit(objective.init)(KEY, batch), jax.jit(objective.predict)
    whole = predict(variables, batch)
    assert ("y_model" in variables["params"]) == (y_tower is not None)
    np.testing.assert_allclose(np.linalg.norm(whole["y_code"], axis=1), 1, rtol=1e-6)
    after = np.arange(6) >= y_length[:, None]
    alone = predict(variables, {"y": np.where(after, 0, y), "y_length": y_length})
    assert alone.keys() == {"y_code"}
    np.testing.assert_allclose(alone["y_code"], whole["y_code"], atol=1e-6)
    of_x = predict(variables, {"x": y, "length": y_length})
    assert of_x.keys() == {"code"}
    assert np.allclose(of_x["code"], whole["y_code"], atol=1e-6) == (y_tower is None)


WORDS = ["red boot", "green bag", "blue coat", "no shirt"]


@pytest.fixture(scope="module")
def trained():
    """A run, not trained yet, of one tower for pairs of a text and itself: each finds itself."""
    tokenizer = jdl.data.ByteTokenizer()
    pairs = jdl.data.text_pairs([(text, text) for text in WORDS], tokenizer, 10)
    tower = RNN(8, (8,), vocab_size=tokenizer.vocab_size, embedding_width=4)
    learner = jdl.descent(contrastive(tower), jdl.optim.adamw(1e-3))
    run = jdl.Run(Config(), learner, pairs.batches(4), test=pairs.batches(3), tokenizer=tokenizer)
    return TrainedRun(run, jax.jit(learner.init)(KEY, pairs.batches(4)[0]))


@pytest.mark.slow
def test_predict_ranks_the_texts_of_the_evaluation_data(trained, tmp_path):
    (tmp_path / "queries.txt").write_text("blue coat\nred boot\ngreen bag\n")
    rows = predict(trained, [tmp_path / "queries.txt"])
    queries = [WORDS[2], *WORDS[:2]]
    assert [row["query"] for row in rows] == [row["match_1"] for row in rows] == queries
    assert all(len({row[f"match_{k}"] for k in (1, 2, 3)}) == 3 for row in rows)
    assert rows[0]["similarity_1"] == pytest.approx(1, abs=1e-6)
    assert rows[0]["similarity_1"] >= rows[0]["similarity_2"] >= rows[0]["similarity_3"]
    assert rows[1]["input"].endswith("queries.txt:2")
    assert len(rows[0]["code"]) == 8
    assert to_csv(rows).splitlines()[0].startswith("input,query,match_1,similarity_1,match_2")
    shown = to_color(rows).splitlines()
    assert shown[0] == "\x1b[1mblue coat\x1b[0m"
    assert shown[1].endswith("1.00\x1b[0m  blue coat")


def test_the_texts_that_are_found_are_embedded_once_for_all_files(trained, tmp_path, monkeypatch):
    (tmp_path / "queries.txt").write_text("blue coat\n")
    fresh, calls, embed = replace(trained), [], TrainedRun.predict_all
    monkeypatch.setattr(
        TrainedRun, "predict_all", lambda *given: calls.append(given) or embed(*given)
    )
    first, second = (predict(fresh, [tmp_path / "queries.txt"]) for _ in range(2))
    assert first == second
    assert len(calls) == 3


def test_queries_and_what_they_find_are_drawn(trained, tmp_path):
    (path,) = draw_retrieval(trained.run, trained.variables, tmp_path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    green = (pixels[..., 1] - pixels[..., 0] > 80) & (pixels[..., 1] - pixels[..., 2] > 80)
    quarters = np.array_split(green, 4, axis=1)
    assert [bool(quarter.any()) for quarter in quarters] == [False, True, False, False]
    without = replace(trained.run, tokenizer=None)
    assert draw_retrieval(without, trained.variables, tmp_path) == []
    assert draw_embedding(trained.run, trained.variables, tmp_path) == []


@pytest.mark.parametrize(
    ("objective", "columns", "message"),
    [
        (lambda: contrastive(MLP(4), MLP(5)), {"x": X, "y": Y}, "one width, but that of x gives"),
        (lambda: contrastive(identity()), {"x": X[:, None], "y": Y[:, None]}, "one width"),
        (lambda: contrastive(identity()), {"x": X}, "needs the column y"),
        (lambda: contrastive(identity(), temperature=0.001), {"x": X, "y": Y}, "at least 0.01"),
    ],
)
def test_what_cannot_work_is_refused(objective, columns, message):
    data = jdl.data.arrays(**columns).batches(7)
    with pytest.raises(jdl.Error, match=message):
        objective().check(data.spec, data.bounds)
