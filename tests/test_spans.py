"""Span F1 of BIO tags equals seqeval's, merged over batches; unknown steps; errors.

Seen to fail: with spans whose ends are not compared; with a type that changes within a span; with
unknown steps left in their places.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.metrics import SpanF1, merge, scalars, span_f1
from jdl.models.rnn import RNN

GOLDEN = Path(__file__).parent / "golden" / "seqeval.npz"
TAGS = ("B-a", "B-b", "I-a", "I-b", "O")


def test_it_is_that_of_seqeval_over_batches():
    """Random tags: many spans begin with I-, and many follow one another."""
    golden = np.load(GOLDEN)
    tags, real = tuple(golden["tags"].tolist()), np.arange(9) < golden["length"][:, None]
    count = jax.jit(lambda predicted, true, mask: SpanF1.of(predicted, true, tags, mask))
    parts = [
        {"span": count(*(jnp.asarray(x[n : n + 40]) for x in columns))}
        for columns in [(golden["predicted"], golden["true"], real)]
        for n in (0, 40, 80)
    ]
    whole = merge(parts)
    found = scalars(whole)
    micro = [found[f"span/{name}"] for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(micro, golden["micro avg"], rtol=1e-12)
    by_type = np.stack([getattr(whole["span"], f)() for f in ("precision", "recall", "f1")], 1)
    np.testing.assert_allclose(by_type, [golden[name] for name in "abc"], rtol=1e-12)
    assert [found[f"span/{name}/f1"] for name in "abc"] == by_type[:, 2].tolist()


def counts(predicted, true, length=None):
    """(true positives, false positives, false negatives) of a and of b, by names of tags."""
    rows = [jnp.asarray([[TAGS.index(tag) for tag in row.split()]]) for row in (predicted, true)]
    batch = {"y": rows[1]} | ({} if length is None else {"length": jnp.asarray([length])})
    span = span_f1({"label": rows[0]}, batch, TAGS)
    return [x.tolist() for x in (span.true_positives, span.false_positives, span.false_negatives)]


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ("B-a I-a O B-b", "B-a I-a O B-b", [[1, 1], [0, 0], [0, 0]]),
        ("I-a I-a O I-b", "B-a I-a O B-b", [[1, 1], [0, 0], [0, 0]]),  # I- without B-
        ("B-a B-a O O", "B-a I-a O O", [[0, 0], [2, 0], [1, 0]]),
        ("B-a I-b O O", "B-a I-a O O", [[0, 0], [1, 1], [1, 0]]),  # I- of another type
        ("B-a O O O", "B-a I-a O O", [[0, 0], [1, 0], [1, 0]]),  # another end
        ("O I-a O B-b", "B-a I-a O B-b", [[0, 1], [1, 0], [1, 0]]),  # another start
        ("O O O O", "O O O O", [[0, 0], [0, 0], [0, 0]]),
    ],
)
def test_spans_that_are_counted_by_hand(predicted, true, expected):
    assert counts(predicted, true) == expected


def test_steps_after_the_end_and_unknown_ones_are_taken_out():
    """A word's second piece has no label: its tags go on behind it."""
    assert counts("B-a I-a I-a B-b", "B-a I-a O O", length=2) == [[1, 0], [0, 0], [0, 0]]
    predicted, true = jnp.asarray([[0, 4, 2, 4]]), jnp.asarray([[0, -1, 2, 4]])
    span = span_f1({"label": predicted}, {"y": true}, TAGS)
    assert [int(x.sum()) for x in (span.true_positives, span.false_positives)] == [1, 0]
    assert float(SpanF1.of(predicted[:, 3:], predicted[:, 3:], TAGS).value()["f1"]) == 0


@pytest.mark.slow
def test_it_is_a_metric_of_any_objective_that_labels_steps():
    model = RNN(5, (4,), return_sequences=True)
    batch = {"x": jnp.ones((2, 4, 3)), "y": jnp.zeros((2, 4), jnp.int32)}
    objective = jdl.objectives.with_metrics(
        jdl.objectives.classify(model), span=partial(span_f1, tags=TAGS)
    )
    variables = objective.init(jax.random.key(0), batch)
    metrics = objective.loss(variables, batch, jax.random.key(0), False).metrics
    assert int(metrics["span"].true_positives.sum() + metrics["span"].false_negatives.sum()) == 8


def test_what_does_not_fit_is_refused():
    one = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(jdl.Error, match="'E-a' is no BIO tag"):
        SpanF1.of(one, one, ("O", "B-a", "E-a"))
    with pytest.raises(jdl.Error, match=r"labels are of shape \(2,\)"):
        span_f1({"label": one[:, 0]}, {"y": one}, TAGS)
