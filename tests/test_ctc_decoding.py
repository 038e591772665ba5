"""CTC's prefix beam search against the sum over all alignments, and spelling by a list of words.

Seen to fail: a repeated label that needs no blank, prefixes that are not merged, a space within a
word, a word that is not whole, frames of padding that count.
"""

from itertools import groupby, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.objectives import ctc
from jdl.objectives.ctc_decoding import (
    any_spelling,
    best_path,
    prefix_beam_search,
    spelling_of,
)

LENGTHS = jnp.asarray([5, 5, 4, 3, 1, 0])
REAL = jnp.arange(5)[None] < LENGTHS[:, None]
LETTERS = 2 * jax.random.normal(jax.random.key(0), (6, 5, 4))
A, B, SPACE = 1, 2, 3
SEARCH = jax.jit(prefix_beam_search, static_argnums=(2, 3))


def of_all_alignments(log_p):
    """The log-probability of each sequence of labels, by the sum over its alignments (T, K)."""
    sums = {}
    for path in product(range(log_p.shape[1]), repeat=len(log_p)):
        labels = tuple(label for label, _ in groupby(path) if label)
        probability = sum(log_p[step, label] for step, label in enumerate(path))
        sums[labels] = np.logaddexp(sums.get(labels, -np.inf), probability)
    return sums


@pytest.fixture(scope="module")
def sums():
    log_p = np.asarray(jax.nn.log_softmax(LETTERS))
    return [of_all_alignments(log_p[row][: LENGTHS[row]]) for row in range(6)]


def decode(logits, real, width, tree):
    labels, lengths, scores = SEARCH(logits, real, width, tree)
    labels, lengths = np.asarray(labels), np.asarray(lengths)
    assert not labels[np.arange(labels.shape[1]) >= lengths[:, None]].any()
    return [tuple(row[:n].tolist()) for row, n in zip(labels, lengths, strict=True)], scores


@pytest.mark.slow
def test_a_wide_beam_sums_over_all_alignments(sums):
    """So wide that no prefix is ever left out."""
    found, scores = decode(LETTERS, REAL, 400, any_spelling(4))
    assert found == [max(of, key=of.get) for of in sums]
    np.testing.assert_allclose(scores, [max(of.values()) for of in sums], atol=1e-5)
    labels, lengths = best_path(LETTERS, REAL)
    greedy = [tuple(row[:n].tolist()) for row, n in zip(labels, lengths, strict=True)]
    assert found != greedy  # best path takes labels of the best alignment, and errs here


@pytest.mark.slow
def test_only_words_are_spelled(sums):
    """The best of all sequences of words, each of which may come again."""
    words = [(A, B), (B,), (B, B, A)]
    spelled = {()}
    for _ in range(3):
        spelled |= {(*before, SPACE, *word) if before else word
                    for before in spelled for word in words}  # fmt: skip
    tree = spelling_of(words, 4, SPACE)
    found, scores = decode(LETTERS, REAL, 60, tree)
    allowed = [{labels: p for labels, p in of.items() if labels in spelled} for of in sums]
    assert found == [max(of, key=of.get) for of in allowed]
    np.testing.assert_allclose(scores, [max(of.values()) for of in allowed], atol=1e-5)
    for width in (1, 2):  # where whole words may have left the beam
        assert set(decode(LETTERS, REAL, width, tree)[0]) <= spelled
    one_word, _ = decode(LETTERS, REAL, 60, spelling_of(words, 4))
    assert set(one_word) <= {(), *words}


def test_a_beam_of_one_is_best_path_where_the_model_is_sure():
    path = jnp.asarray([[0, 1, 1, 0, 1, 2], [2, 2, 0, 3, 0, 3]])
    real = jnp.asarray([[True] * 6, [True] * 4 + [False] * 2])
    logits = 9.0 * jax.nn.one_hot(path, 4)
    labels, lengths, _ = SEARCH(logits, real, 1, any_spelling(4))
    for ours, greedy in zip((labels, lengths), best_path(logits, real), strict=True):
        np.testing.assert_array_equal(ours, greedy)


def test_frames_that_are_not_real_change_nothing():
    tree = any_spelling(4)
    noise = jnp.where(REAL[..., None], LETTERS, 7.0)
    whole = SEARCH(noise, REAL, 4, tree)
    shorter = SEARCH(LETTERS[2:, :4], REAL[2:, :4], 4, tree)
    np.testing.assert_array_equal(whole[0][2:, :4], shorter[0])
    np.testing.assert_array_equal(whole[1][2:], shorter[1])
    np.testing.assert_allclose(whole[2][2:], shorter[2], atol=1e-6)


@pytest.mark.slow
def test_the_objective_decodes_and_counts_words():
    """Evaluation and prediction are by the beam search, and the word error rate is of its words."""
    labels = ("", "a", "b", " ")
    model = jdl.Model(lambda key, x: {"w": jnp.ones(())}, lambda params, x: x * params["w"])
    batch = {
        "x": LETTERS,
        "length": LENGTHS,
        "y": jnp.asarray([[1, 2, 3, 2], [2, 0, 0, 0]] * 3),  # padded, without y_length
        "mask": jnp.asarray([True] * 4 + [False] * 2),
    }
    params = {"params": {"w": jnp.ones(())}}
    objective = ctc(model, labels=labels, beam=20, words=("ab", "b"))
    tree = spelling_of([(A, B), (B,)], 4, SPACE)
    real = REAL & batch["mask"][:, None]
    expected = SEARCH(LETTERS, real, 20, tree)[:2]
    found = jax.jit(objective.predict)(params, batch)
    np.testing.assert_array_equal(found["labels"], expected[0])
    np.testing.assert_array_equal(found["length"], expected[1])
    loss = jax.jit(lambda batch: objective.loss(params, batch, jax.random.key(0), False))
    out, lengths = loss(batch), jnp.asarray([4, 1] * 3)
    given = *expected, batch["y"], lengths
    rate = jax.jit(jdl.metrics.word_error_rate, static_argnums=4)(*given, SPACE, batch["mask"])
    assert out.metrics["word_error_rate"].value() == rate.value()
    assert rate.count == 6
    with_lengths = loss({**batch, "y_length": lengths})
    assert out.loss.value() == with_lengths.loss.value()
    no_spaces = ctc(model, labels=("", "a", "b", "c"), beam=1)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda batch: no_spaces.loss(params, batch, key, False), batch)
    assert "word_error_rate" not in shapes.metrics


def test_labels_and_words_that_do_not_fit_are_refused():
    model = jdl.Model(lambda key, x: {"w": jnp.ones(())}, lambda params, x: x * params["w"])
    spec = jax.eval_shape(lambda: {"x": LETTERS, "y": jnp.ones((6, 2), jnp.int32)})
    with pytest.raises(jdl.Error, match="4 outputs, and ctc was given 2 labels"):
        ctc(model, labels=("", "a")).check(spec, {})
    with pytest.raises(jdl.Error, match="beam=0 and 1 words"):
        ctc(model, labels=("", "a"), words=("a",))
    with pytest.raises(jdl.Error, match=r"The word 'abc' must be spelled by the labels a, b"):
        ctc(model, labels=("", "a", "b"), beam=2, words=("ab", "abc"))
    with pytest.raises(jdl.Error, match=r"The word 'a b' must be spelled"):
        ctc(model, labels=("", "a", "b", " "), beam=2, words=("a b",))
