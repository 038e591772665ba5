"""Span F1: precision, recall and F1 of whole entities in sequences of BIO tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdl.metrics.columns import Columns, column, label_weights, ratio
from jdl.types import Array, Error


class Bio(NamedTuple):
    """What BIO tags mean (Ramshaw and Marcus, 1995): of each, its type and whether it begins."""

    types: tuple[str, ...]  # the names, sorted
    type_of: np.ndarray  # (K,): the index of each tag's type; -1 for O
    begins: np.ndarray  # (K,): whether the tag is B-...


def is_bio(tags: Sequence[str]) -> bool:
    """Whether any of the tags is written as a BIO tag, B-x or I-x."""
    return any(tag.startswith(("B-", "I-")) for tag in tags)


def bio(tags: Sequence[str]) -> Bio:
    """The meaning of BIO tags: B-x begins a span of type x, I-x is inside one, O is outside.

    Raises `Error` for any other tag.
    """
    for tag in tags:
        if tag != "O" and not (tag.startswith(("B-", "I-")) and len(tag) > 2):
            raise Error(
                f"The tag {tag!r} is no BIO tag: these are O, and B-x and I-x for each type x, "
                "such as B-person. (BIOES: write B- for S-, and I- for E-.)"
            )
    types = tuple(sorted({tag[2:] for tag in tags if tag != "O"}))
    type_of = [types.index(tag[2:]) if tag != "O" else -1 for tag in tags]
    return Bio(types, np.asarray(type_of, np.int32), np.asarray([tag[0] == "B" for tag in tags]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpanF1:
    """Span F1, as of named entities: a predicted span counts if its start, end and type are right.

    Equal to seqeval's default mode and to the script conlleval (Tjong Kim Sang and De Meulder,
    2003): I-x without B-x or I-x before it begins a span too. Precision, recall and F1 are micro
    averages, of the counts of all types; "x/f1" is that of type x. Where nothing is to be found, or
    nothing was, they are 0.
    """

    true_positives: Array  # (types,) of int32, as are the others
    false_positives: Array
    false_negatives: Array
    types: tuple[str, ...] = field(metadata={"static": True})

    @classmethod
    def of(
        cls, predicted: Array, labels: Array, tags: Sequence[str], mask: Array | None = None
    ) -> SpanF1:
        """Counts the spans of predicted and true tags (B, T), which are indices of `tags`.

        Steps whose `mask` (B, T) is false are taken out, such as all but the first piece of a word.
        """
        scheme = bio(tags)
        if mask is not None:
            order = jnp.argsort(~mask.astype(bool), axis=1, stable=True)
            predicted, labels, mask = (
                jnp.take_along_axis(x, order, 1) for x in (predicted, labels, mask.astype(bool))
            )
        (found, found_end), (true, true_end) = (
            _spans(scheme, tags, mask) for tags in (predicted, labels)
        )
        right = (found >= 0) & (found == true) & (found_end == true_end)

        def count(types: Array, which: Array | bool = True) -> Array:
            each = jnp.arange(len(scheme.types))[:, None, None]
            return ((types[None] == each) & which).sum((1, 2), dtype=jnp.int32)

        hits = count(true, right[None])
        return cls(hits, count(found) - hits, count(true) - hits, scheme.types)

    def __add__(self, other: SpanF1) -> SpanF1:
        return SpanF1(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.types,
        )

    def precision(self) -> Array:
        """The share of the predicted spans of each type that are right, (types,)."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    def recall(self) -> Array:
        """The share of the true spans of each type that were found, (types,)."""
        return ratio(self.true_positives, self.true_positives + self.false_negatives)

    def f1(self) -> Array:
        """The F1 score of each type (types,): the harmonic mean of precision and recall."""
        wrong = self.false_positives + self.false_negatives
        return ratio(2 * self.true_positives, 2 * self.true_positives + wrong)

    def value(self) -> dict[str, Array]:
        """Precision, recall and F1 of all spans together, and the F1 of each type."""
        together = jax.tree.map(lambda counts: counts.sum(), self)
        of_types = self.f1()
        return {
            "precision": together.precision(),
            "recall": together.recall(),
            "f1": together.f1(),
            **{f"{name}/f1": of_types[n] for n, name in enumerate(self.types)},
        }


def span_f1(predictions: Columns, batch: Columns, tags: Sequence[str], target: str = "y") -> SpanF1:
    """Span F1 of predicted BIO tags, for `with_metrics(classify(model), span=...)`.

    Give the names of the tags by `functools.partial(jdl.metrics.span_f1, tags=train.labels)`. Steps
    after a row's length, and those with the label -1, are left out; see `SpanF1`.
    """
    predicted = jnp.asarray(column(predictions, "label", "predictions"))
    labels = jnp.asarray(column(batch, target, "batch"))
    if predicted.ndim != 2 or predicted.shape != labels.shape:
        raise Error(
            f"span_f1 compares tags (B, T), but the predicted labels are of shape "
            f"{predicted.shape}, and the column {target} of shape {labels.shape}."
        )
    mask = label_weights(batch, labels, None)
    return SpanF1.of(predicted, labels.clip(0), tags, mask)


def _spans(scheme: Bio, tags: Array, mask: Array | None) -> tuple[Array, Array]:
    """For each step (B, T): the type of the span that begins there, or -1; where its span ends."""
    types = jnp.asarray(scheme.type_of)[tags]
    if mask is not None:
        types = jnp.where(mask, types, -1)
    before = jnp.pad(types, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    begins = (types >= 0) & (jnp.asarray(scheme.begins)[tags] | (types != before))
    goes_on = (types >= 0) & ~begins
    ends = ~jnp.pad(goes_on, ((0, 0), (0, 1)))[:, 1:]
    steps = jnp.arange(tags.shape[1])[None]
    end = jax.lax.cummin(jnp.where(ends, steps, tags.shape[1]), axis=1, reverse=True)
    return jnp.where(begins, types, -1), end
