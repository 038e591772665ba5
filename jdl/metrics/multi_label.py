"""The F1 score of several labels a row: micro and macro."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.types import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultiLabelF1:
    """F1 score of several labels a row, from the counts of each label, (K,) of int32.

    "macro" is the mean of the labels' F1 scores, "micro" that of the summed counts. A label that
    neither occurs nor is predicted has F1 0, as in scikit-learn.
    """

    true_positives: Array
    false_positives: Array
    false_negatives: Array

    @classmethod
    def of(cls, predicted: Array, labels: Array, mask: Array | None = None) -> MultiLabelF1:
        """Counts booleans, predicted and true (B, K), whose `mask`, (B,) or (B, K), is true."""
        mask = jnp.ones(labels.shape, bool) if mask is None else mask.astype(bool)
        mask = mask.reshape(mask.shape + (1,) * (labels.ndim - mask.ndim))

        def count(which: Array) -> Array:
            return (which & mask).astype(jnp.int32).sum(0)

        return cls(
            count(predicted & labels), count(predicted & ~labels), count(~predicted & labels)
        )

    def __add__(self, other: MultiLabelF1) -> MultiLabelF1:
        return MultiLabelF1(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    def f1(self) -> Array:
        """The F1 score of each label (K,)."""
        both = 2 * self.true_positives
        return both / (both + self.false_positives + self.false_negatives).clip(1)

    def value(self) -> dict[str, Array]:
        """Micro and macro F1."""
        # No `jnp` functions: these are JAX arrays in a step, 64-bit NumPy arrays after merging.
        both, wrong = 2 * self.true_positives, self.false_positives + self.false_negatives
        return {"micro": both.sum() / (both + wrong).sum().clip(1), "macro": self.f1().mean()}
