"""Metrics against scikit-learn, and merged in any grouping."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from jdl.metrics import Confusion, accuracy, merge, scalars, top_k

CLASSES = 5


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES - 1, 64).astype(np.int32)  # the last class never occurs
    mask = rng.random(64) < 0.7
    return jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask)


def test_against_scikit_learn(scored):
    logits, labels, mask = scored
    real = np.asarray(mask)
    true, scores = np.asarray(labels)[real], np.asarray(logits)[real]
    assert accuracy(*scored).value() == pytest.approx(accuracy_score(true, scores.argmax(-1)))
    expected = top_k_accuracy_score(true, scores, k=2, labels=range(CLASSES))
    assert top_k(logits, labels, 2, mask).value() == pytest.approx(expected)
    found = Confusion.of(logits.argmax(-1), labels, CLASSES, mask)
    np.testing.assert_array_equal(found.counts, confusion_matrix(true, scores.argmax(-1), labels=range(CLASSES)))
    by_class = precision_recall_fscore_support(true, scores.argmax(-1), labels=range(CLASSES), zero_division=0)
    for values, expected in zip((found.precision(), found.recall(), found.f1()), by_class, strict=False):
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert found.accuracy() == pytest.approx(accuracy_score(true, scores.argmax(-1)))


def test_merging_parts_is_the_whole(scored):
    def found(rows):
        logits, labels, mask = (column[rows] for column in scored)
        confusion = Confusion.of(logits.argmax(-1), labels, CLASSES, mask)
        return {"accuracy": accuracy(logits, labels, mask), "confusion": confusion}

    parts = merge([found(slice(0, 7)), found(slice(7, 8)), found(slice(8, 64))])
    assert scalars(parts) == pytest.approx(scalars(merge([found(slice(0, 64))])))
    assert set(scalars(parts)) == {"accuracy", "confusion/f1", "confusion/precision", "confusion/recall"}


def test_merging_is_exact_beyond_float32():
    many = {"mean": accuracy(jnp.ones((1, 2)), jnp.zeros(1, jnp.int32))}
    total = merge([{"mean": type(many["mean"])(jnp.float32(2**24), jnp.float32(2**24))}, many])
    assert total["mean"].count == 2**24 + 1
