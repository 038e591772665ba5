"""Word vectors: windows of words, skip-gram's loss by hand, its negatives, and queries in files.

Seen to fail: a loss without the weight of the distance; contexts across the padding; negatives by
the counts themselves; another formula of subsampling; an analogy with wrong signs; a row's own
words among its nearest; words numbered by the alphabet.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.data.stdlib_words import words
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.mlp import MLP
from jdl.models.word_vectors import WordVectors

COUNTS = (40, 30, 20, 10, 5, 1)
skip_gram = partial(jdl.objectives.skip_gram, counts=COUNTS)


def variables_of(width=3):
    keys = jax.random.split(jax.random.key(0))
    tables = [jax.random.normal(key, (len(COUNTS), width)) for key in keys]
    return {"params": {"vectors": tables[0], "contexts": tables[1]}}


def test_the_loss_is_that_of_all_pairs_one_by_one():
    """Skip-gram with negative sampling in loops, of the expected windows and shared negatives."""
    objective = skip_gram(WordVectors(6, 3), window=2, negatives=4)
    x, length = jnp.asarray([[0, 1, 2, 3, 0], [4, 5, 1, 0, 0]]), jnp.asarray([5, 3])
    mask = jnp.asarray([True, True])
    batch, key = {"x": x, "length": length, "mask": mask}, jax.random.key(1)
    output = jax.jit(objective.loss, static_argnums=3)(variables_of(), batch, key, True)
    drawn = np.asarray(objective._draw_negatives(batch, jdl.stream(key, "negatives"), True))
    vectors, contexts = (np.asarray(table) for table in variables_of()["params"].values())
    total = count = 0.0
    for row in range(2):
        for i in range(length[row]):
            for j in range(length[row]):
                if 0 < abs(i - j) <= 2:
                    weight = 1 if abs(i - j) == 1 else 0.5
                    own = vectors[x[row, i]]
                    good = np.log1p(np.exp(-own @ contexts[x[row, j]]))
                    bad = np.log1p(np.exp(contexts[drawn[row]] @ own)).mean()
                    total, count = total + weight * (good + 4 * bad), count + weight
    np.testing.assert_allclose(output.loss.value(), total / count, rtol=1e-5)
    np.testing.assert_allclose(output.loss.count, count)


def test_negatives_are_drawn_by_their_counts_to_the_power_of_three_quarters():
    objective = skip_gram(WordVectors(6, 3))
    draw = jax.jit(objective._draw_negatives, static_argnums=2)
    batch = {"x": jnp.zeros((400, 100), jnp.int32), "id": jnp.arange(400)}
    drawn = np.asarray(draw(batch, jax.random.key(0), True))
    of_row = draw({name: v[7:9] for name, v in batch.items()}, jax.random.key(1), False)
    np.testing.assert_array_equal(of_row, draw(batch, jax.random.key(2), False)[7:9])
    expected = np.asarray(COUNTS) ** 0.75
    np.testing.assert_allclose(
        np.bincount(drawn.ravel(), minlength=6) / drawn.size,
        expected / expected.sum(),
        atol=0.008,  # 3 standard errors
    )


def test_windows_have_the_frequent_words_first_and_no_border_in_them():
    sentences = [["b", "a", "b", "rare"], ["c", "a", "b"], ["c"] * 3]
    data = jdl.data.word_windows(sentences, min_count=2, subsample=0, length=2)
    assert data.labels == ("c", "b", "a")
    assert data.counts == (4, 3, 2)
    assert data.columns["x"].tolist() == [[1, 2], [0, 2], [0, 0]]  # single words are left out
    data = jdl.data.word_windows(sentences, min_count=1, subsample=0, length=4)
    assert data.columns["length"].tolist() == [4, 3, 3]
    assert data.columns["x"][0].tolist() == [1, 2, 1, 3]


def test_frequent_words_are_subsampled():
    """By word2vec's formula: of words with a share of 90%, 9.9% and 0.1%."""
    sentences = [["a"] * 900 + ["b"] * 99 + ["c"]] * 40
    data = jdl.data.word_windows(sentences, subsample=1e-2, length=64)
    x, length = data.columns["x"], data.columns["length"]
    kept = np.bincount(x[np.arange(64) < length[:, None]], minlength=3) / np.asarray(data.counts)
    share = 1e-2 / np.asarray(data.counts) * sum(data.counts)
    assert data.labels == ("a", "b", "c")
    np.testing.assert_allclose(kept[:2], (np.sqrt(share) + share)[:2], rtol=0.1)
    assert kept[2] > 0.9
    again = jdl.data.word_windows(sentences, subsample=1e-2, length=64)
    assert again.fingerprint == data.fingerprint
    assert data.fingerprint[:16] == "fb935b6fefa6c068"
    other = jdl.data.word_windows(sentences, subsample=1e-2, length=64, seed=1)
    assert other.fingerprint != data.fingerprint


def test_words_of_identifiers():
    source = "def readLine(self, HTTPError, x2y):\n    '''not this'''\n    return _read_line  # or"
    expected = ["read", "line", "self", "http", "error", "x", "y", "read", "line"]
    assert words(source) == expected
    assert words(source + "\n  (") == expected  # and what is before an error


@pytest.fixture(scope="module")
def trained():
    """A run whose vectors are known: reader - read + write is near to writer."""
    vocabulary = ["read", "reader", "write", "writer", "os"]
    data = jdl.data.word_windows([vocabulary] * 5, subsample=0, length=5)
    assert data.labels == tuple(sorted(vocabulary))
    assert data.columns["x"].shape == (5, 5)
    model = WordVectors(5, 4)
    objective = jdl.objectives.skip_gram(model, data.counts)
    learner = jdl.descent(objective, optax.sgd(0.1))
    state = jax.jit(learner.init)(jax.random.key(0), data.batches(2)[0])
    table = {"os": [0, 0, 0, 1], "read": [1, 0, 0, 0], "reader": [1, 0, 1, 0]}
    table |= {"write": [0, 1, 0, 0], "writer": [0, 1, 1, 0.1]}
    params = {**state.params, "vectors": jnp.asarray([table[word] for word in data.labels])}
    batches = data.batches(2)
    run = jdl.Run(jdl.Config("words"), learner, batches, test=batches, labels=data.labels)
    return TrainedRun(run, jdl.State(state.step, params, {}, state.opt_state, state.key))


def test_neighbours_and_analogies_of_a_file(trained, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("read\n\nreader - read + write\nwriter - write\n")
    rows = predict(trained, [path])
    best = {row["input"]: row["item"] for row in rows if row["rank"] == 1}
    expected = {"read": "reader", "reader - read + write": "writer", "writer - write": "reader"}
    assert best == expected
    (score,) = (row["score"] for row in rows if (row["input"], row["rank"]) == ("read", 1))
    assert score == pytest.approx(np.sqrt(0.5))
    assert "read" not in [row["item"] for row in rows if row["input"] == "read"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("read\nwriting", r"words\.txt:2: the word 'writing' is not in the vocabulary"),
        ("read write", r"words\.txt:1 must be a word, or a sum"),
        ("read - ", r"words\.txt:1 must be a word, or a sum"),
        ("- read", r"words\.txt:1 must be a word, or a sum"),
        ("read" + " + os" * 5, r"words\.txt:1 has 6 words, .* at most 5"),
    ],
)
def test_bad_queries_are_refused_with_the_line(trained, tmp_path, line, error):
    (tmp_path / "words.txt").write_text(line)
    with pytest.raises(jdl.Error, match=error):
        predict(trained, [tmp_path / "words.txt"])


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(jdl.Error, match="lists of words"):
        jdl.data.word_windows(["a text", "another"])
    with pytest.raises(jdl.Error, match="Fewer than two words"):
        jdl.data.word_windows([["a", "b", "a"]], min_count=2)
    with pytest.raises(jdl.Error, match="No sentence has two words left"):
        jdl.data.word_windows([["a", "b"] * 5], subsample=1e-9)
    with pytest.raises(jdl.Error, match="length of 2"):
        jdl.data.word_windows([["a", "b"]], length=1)
    with pytest.raises(jdl.Error, match="how often each word"):
        jdl.objectives.skip_gram(WordVectors(2, 3), (1, 0))
    with pytest.raises(jdl.Error, match="at least 1"):
        skip_gram(WordVectors(6, 3), window=0)
    spec = {"x": jax.ShapeDtypeStruct((2, 4), jnp.int32)}
    with pytest.raises(jdl.Error, match="from 0 to 6, but counts has 6"):
        skip_gram(WordVectors(7, 3)).check(spec, {"x": (0, 6)})
    with pytest.raises(jdl.Error, match="no context"):
        skip_gram(MLP(3)).check(spec, {})
    numbers = {"x": jax.ShapeDtypeStruct((2, 4), jnp.float32)}
    with pytest.raises(jdl.Error, match="needs words x"):
        skip_gram(WordVectors(6, 3)).check(numbers, {})
