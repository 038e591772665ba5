"""Metrics against scikit-learn, and merged in any grouping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    jaccard_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from jdl.metrics import (
    Confusion,
    MeanIoU,
    Perplexity,
    accuracy,
    edit_distance,
    error_rate,
    exact_match,
    merge,
    scalars,
    top_k,
    word_error_rate,
)
from jdl.types import Mean

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
    confusion = Confusion.of(logits.argmax(-1), labels, CLASSES, mask)
    np.testing.assert_array_equal(
        confusion.counts, confusion_matrix(true, scores.argmax(-1), labels=range(CLASSES))
    )
    by_class = precision_recall_fscore_support(
        true, scores.argmax(-1), labels=range(CLASSES), zero_division=0
    )
    for values, expected in zip(
        (confusion.precision(), confusion.recall(), confusion.f1()), by_class, strict=False
    ):
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert confusion.accuracy() == pytest.approx(accuracy_score(true, scores.argmax(-1)))


def test_merging_parts_is_the_whole(scored):
    def metrics_of(rows):
        logits, labels, mask = (column[rows] for column in scored)
        confusion = Confusion.of(logits.argmax(-1), labels, CLASSES, mask)
        return {"accuracy": accuracy(logits, labels, mask), "confusion": confusion}

    parts = merge([metrics_of(slice(0, 7)), metrics_of(slice(7, 8)), metrics_of(slice(8, 64))])
    assert scalars(parts) == pytest.approx(scalars(merge([metrics_of(slice(0, 64))])))
    assert set(scalars(parts)) == {
        "accuracy",
        "confusion/f1",
        "confusion/precision",
        "confusion/recall",
    }


def test_merging_is_exact_beyond_float32():
    many = {"mean": accuracy(jnp.ones((1, 2)), jnp.zeros(1, jnp.int32))}
    total = merge([{"mean": type(many["mean"])(jnp.float32(2**24), jnp.float32(2**24))}, many])
    assert total["mean"].count == 2**24 + 1


SHAPE = (4, 6, 5)  # images, height, width


@pytest.fixture
def segmented():
    """Predicted and true classes of the pixels of four images; the last class is in neither."""
    rng = np.random.default_rng(1)
    predicted, labels = (rng.integers(0, CLASSES - 1, SHAPE).astype(np.int32) for _ in range(2))
    return jnp.asarray(predicted), jnp.asarray(labels)


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[:2], SHAPE[:1], None])
def test_pixels_are_counted_where_the_mask_holds(segmented, shape):
    predicted, labels = segmented
    mask = None if shape is None else np.random.default_rng(2).random(shape) < 0.5
    real = (
        np.ones(SHAPE, bool)
        if mask is None
        else np.broadcast_to(mask.reshape(mask.shape + (1,) * (3 - mask.ndim)), SHAPE)
    )
    confusion = Confusion.of(
        predicted, labels, CLASSES, None if mask is None else jnp.asarray(mask)
    )
    pair = np.asarray(labels)[real], np.asarray(predicted)[real]
    np.testing.assert_array_equal(confusion.counts, confusion_matrix(*pair, labels=range(CLASSES)))
    by_class = jaccard_score(*pair, labels=range(CLASSES), average=None, zero_division=0)
    np.testing.assert_allclose(confusion.iou(), by_class, rtol=1e-6)
    assert float(jax.jit(MeanIoU.value)(MeanIoU(confusion))) == pytest.approx(
        jaccard_score(*pair, average="macro")
    )


def test_iou_merges_by_pixels_and_not_by_images(segmented):
    images = [MeanIoU(Confusion.of(p, t, CLASSES)) for p, t in zip(*segmented, strict=True)]
    whole = MeanIoU(Confusion.of(*segmented, CLASSES)).value()
    assert scalars(merge([{"iou": image} for image in images])) == pytest.approx(
        {"iou": float(whole)}
    )
    assert ((images[0] + images[1]) + (images[2] + images[3])).value() == pytest.approx(
        float(whole)
    )
    assert MeanIoU(Confusion(jnp.zeros((2, 2), jnp.int32))).value() == 0


def test_perplexity_is_of_all_tokens_together():
    nats = jnp.asarray([[1.0, 2.0], [3.0, jnp.nan]])
    mask = jnp.asarray([[True, True], [True, False]])
    rows = [Perplexity(Mean.of(n, m)) for n, m in zip(nats, mask, strict=True)]
    assert float(jax.jit(Perplexity.value)(Perplexity(Mean.of(nats, mask)))) == pytest.approx(
        np.exp(2), rel=1e-6
    )
    assert scalars(merge([{"perplexity": row} for row in rows])) == pytest.approx(
        {"perplexity": np.exp(2)}, rel=1e-6
    )
    assert Perplexity(
        Mean.of(jnp.full((3, 4), np.log(7, dtype=np.float32)))
    ).value() == pytest.approx(7, rel=1e-6)


def levenshtein(one, other):
    """Row by row, as textbooks do it."""
    row = list(range(len(other) + 1))
    for n, token in enumerate(one, 1):
        above, row = row, [n]
        for k, label in enumerate(other, 1):
            row.append(min(above[k] + 1, row[-1] + 1, above[k - 1] + (token != label)))
    return row[-1]


@pytest.mark.parametrize("kinds", [1, 2, 4])
@pytest.mark.parametrize(("wide", "other_wide"), [(7, 9), (9, 7), (1, 5), (5, 1)])
def test_edit_distance_is_that_of_the_textbook(wide, other_wide, kinds):
    """What lies beyond the lengths is as random as what lies before."""
    rng = np.random.default_rng(kinds)
    predicted, labels = (
        rng.integers(0, kinds, (150, size)).astype(np.int32) for size in (wide, other_wide)
    )
    lengths, label_lengths = (
        rng.integers(0, size + 1, 150).astype(np.int32) for size in (wide, other_wide)
    )
    distances = jax.jit(edit_distance)(predicted, lengths, labels, label_lengths)
    assert distances.dtype == jnp.int32
    rows = zip(predicted, lengths, labels, label_lengths, strict=True)
    assert distances.tolist() == [
        levenshtein(p[:n].tolist(), t[:m].tolist()) for p, n, t, m in rows
    ]


def words(*texts):
    width = max(map(len, texts))
    padded = [[ord(letter) for letter in text.ljust(width, "\0")] for text in texts]
    return jnp.asarray(padded, jnp.int32), jnp.asarray([len(text) for text in texts], jnp.int32)


def test_edit_distance_of_known_words():
    pairs = [
        ("kitten", "sitting", 3),
        ("saturday", "sunday", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
    ]
    predicted, labels, distances = zip(*pairs, strict=True)
    assert edit_distance(*words(*predicted), *words(*labels)).tolist() == list(distances)


def test_error_rate_is_edits_over_labels_and_merges():
    predicted, labels = words("kitten", "aaaa", "abc"), words("sitting", "b", "xyz")
    whole = error_rate(*predicted, *labels)
    assert (float(whole.total), float(whole.count)) == (3 + 4 + 3, 7 + 1 + 3)
    rows = [error_rate(*(column[k : k + 1] for column in (*predicted, *labels))) for k in range(3)]
    assert scalars(merge([{"wer": rows[0] + rows[1]}, {"wer": rows[2]}])) == pytest.approx(
        {"wer": 10 / 11}
    )
    assert rows[1].value() == 4
    masked = jax.jit(error_rate)(*predicted, *labels, jnp.asarray([True, False, True]))
    assert (float(masked.total), float(masked.count)) == (6, 10)
    weighed = error_rate(*predicted, *labels, jnp.asarray([0.5, 0.0, 1.0]))
    assert (float(weighed.total), float(weighed.count)) == (4.5, 6.5)


@pytest.mark.slow
def test_word_error_rates_are_those_of_jiwer():
    """Numbers of jiwer 4.0.0, which refuses a text without words; other spaces count nothing."""
    said = "seven hundred and two", "one two three", "a b a", "no", "ab a", "seven", ""
    read = "  seven hundred  and too ", "one three", "b a b", "", "a ab", "seven", "so"
    predicted, labels = words(*read), words(*said)
    rate = jax.jit(word_error_rate, static_argnums=4)
    with_words = jnp.arange(7) < 6
    whole = rate(*predicted, *labels, ord(" "), with_words)
    assert (float(whole.total), float(whole.count), float(whole.value())) == (7, 14, 0.5)
    rows = [[column[n : n + 1] for column in (*predicted, *labels)] for n in range(7)]
    edits = [float(word_error_rate(*row, ord(" ")).total) for row in rows]
    assert edits == [1, 1, 2, 1, 2, 0, 1]


def test_exact_matches_are_edit_distances_of_zero():
    """Seen to fail without the comparison of lengths."""
    predicted = words("abc", "ab", "abc", "", "abd", "")
    labels = words("abc", "abcd", "ab", "a", "abc", "")
    for first, second in ((predicted, labels), (labels, predicted)):
        right = exact_match(*first, *second)
        assert (float(right.total), float(right.count)) == (2, 6)
    masked = exact_match(*predicted, *labels, jnp.asarray([False, True, True, True, True, True]))
    assert (float(masked.total), float(masked.count)) == (1, 5)


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32, jnp.bfloat16, jnp.float16])
def test_a_mean_sums_and_counts_in_float32(dtype):
    """70,000 are more than float16 holds, and 3,001 more than bfloat16 counts."""
    for count in (3_001, 70_000):
        mean = Mean.of(jnp.ones(count, dtype))
        assert (float(mean.total), float(mean.count)) == (count, count)
    half = Mean.of(jnp.ones(4, dtype), jnp.asarray([0.5, 0.5, 0.0, 1.0]))
    assert (float(half.total), float(half.count)) == (2.0, 2.0)
