"""Word vectors by skip-gram with negative sampling (word2vec)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.objectives import model_call
from jdl.objectives.metric_learning import normalized
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Variables

POWER = 0.75  # of the counts, in the distribution of negatives
SHOWN = 10  # nearest words in predictions


def skip_gram(model: Any, counts: Sequence[int], window: int = 5, negatives: int = 5) -> SkipGram:
    """Word vectors by skip-gram with negative sampling (word2vec; Mikolov et al., 2013).

    The model gives the vectors of words x (B, T), and by its method `context` those of the same
    words as contexts, both (B, T, D), as `WordVectors` does. The loss of a pair of words that stand
    at most `window` apart is the binary cross-entropy of their dot product, that they are a pair,
    and of `negatives` words that are drawn by `counts`, how often each word occurs, to the power of
    3/4: that they are none. word2vec draws the window of each word from 1 to `window`; here a pair
    at the distance d has the expected weight of that, (window - d + 1) / window.

    To be fast, all words of a row share their negatives, as many as it has places (Ji et al., 2016,
    share them in a window): all dot products are then two products of matrices. They weigh as much
    as `negatives` for each pair. Predictions: the ten nearest words to a row by cosine, `items`,
    and their `score`. What is near to a row is near to the sum of its words, of length 1 each and
    with the signs in the column `sign` if there is one: read - reader + writer is an analogy.
    """
    if window < 1 or negatives < 1:
        raise Error(f"window and negatives must be at least 1, not {window} and {negatives}.")
    frequency = np.asarray(counts, np.float64)
    if frequency.ndim != 1 or len(frequency) < 2 or not (frequency > 0).all():
        raise Error("counts must say how often each word of the vocabulary occurs, at least once.")
    cumulative = np.cumsum(frequency**POWER)
    return SkipGram(model, (cumulative / cumulative[-1]).astype(np.float32), window, negatives)


@dataclass(frozen=True, eq=False)
class SkipGram(model_call.ModelObjective):
    """Skip-gram with negative sampling; see `skip_gram`."""

    cumulative: np.ndarray  # of the probabilities with which words are drawn as negatives, (V,)
    window: int
    negatives: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean loss of the pairs, in nats."""
        x = model_call.column(batch)
        drawn = self._draw_negatives(batch, stream(key, "negatives"), train)

        def call(words: Array, method: str) -> tuple[Array, Variables]:
            inputs = (words,)
            return model_call.apply(self.model, variables, inputs, batch, key, train, method)

        vectors, model_state = call(x, "__call__")
        (contexts, _), (others, _) = call(x, "context"), call(drawn, "context")
        pairs = self._pair_weights(batch)
        losses = pairs * jax.nn.softplus(-_products(vectors, contexts))
        weights = pairs.sum(2, keepdims=True) * (self.negatives / x.shape[1])
        total = losses.sum() + (weights * jax.nn.softplus(_products(vectors, others))).sum()
        return LossOutput(Mean(total, pairs.sum()), {}, model_state)

    def _pair_weights(self, batch: Batch) -> Array:
        """The weight (B, T, T) of each word's pairs with the others of its row."""
        x = batch["x"]
        distance = np.abs(np.subtract.outer(np.arange(x.shape[1]), np.arange(x.shape[1])))
        weight = (self.window - distance + 1).clip(0) / self.window * (distance > 0)
        real = model_call.time_mask(batch)
        real = (
            jnp.ones(x.shape, bool)
            if real is None
            else jnp.broadcast_to(real.reshape(len(x), -1), x.shape)
        )
        both = real[:, :, None] & real[:, None]
        return jnp.where(both, jnp.asarray(weight, jnp.float32)[None], 0)

    def _draw_negatives(self, batch: Batch, key: Key, train: bool) -> Array:
        """Words (B, T), drawn by row; in evaluation always the same ones for a row."""
        cumulative, shape = jnp.asarray(self.cumulative), batch["x"].shape

        def draw(key: Key, shape: tuple[int, ...]) -> Array:
            place = jnp.searchsorted(cumulative, jax.random.uniform(key, shape), side="right")
            return place.clip(max=len(cumulative) - 1).astype(jnp.int32)

        if train:
            return sample_rows(draw, key, shape)
        keys = model_call.example_keys(jax.random.key(0), batch)
        return jax.vmap(lambda key: draw(key, shape[1:]))(keys)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The nearest words (B, 10) to each row, without its own, and their cosines."""
        x, real = model_call.column(batch), model_call.time_mask(batch)
        every = jnp.arange(len(self.cumulative))[None]
        vectors = normalized(model_call.evaluate(self.model, variables, batch, (every,))[0])
        sign = batch.get("sign", jnp.ones_like(x)).astype(vectors.dtype)
        if real is not None and real.ndim == 2:
            sign = jnp.where(real, sign, 0)
        cosines = normalized((sign[:, :, None] * vectors[x]).sum(1)) @ vectors.T
        own = jnp.zeros(cosines.shape, bool)
        own = jax.vmap(lambda row, words, counted: row.at[words].max(counted))(own, x, sign != 0)
        cosines = jnp.where(own, -jnp.inf, cosines)
        score, items = jax.lax.top_k(cosines, min(SHOWN, cosines.shape[1] - 1))
        return {"items": items, "score": score}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x are not words, or the model does not give their vectors."""
        x, words = model_call.column(spec), len(self.cumulative)
        model_call.require_methods("skip_gram", self.model, "context")
        if not jnp.issubdtype(x.dtype, jnp.integer) or x.ndim != 2:
            raise Error(
                f"skip_gram needs words x (B, T), whole numbers, not {x.dtype} of shape {x.shape}: "
                "see jdl.data.word_windows."
            )
        least, greatest = bounds.get("x", (0, words - 1))
        if least < 0 or greatest >= words:
            raise Error(
                f"The words x are from {least} to {greatest}, but counts has {words} words."
            )
        shape = model_call.output_shape(self.model, spec)
        if len(shape) != 3 or shape[:2] != x.shape:
            raise Error(f"The model must give vectors {(*x.shape, 'D')}, and gives {shape}.")


def _products(vectors: Array, others: Array) -> Array:
    """The dot products (B, T, K) of vectors (B, T, D) and others (B, K, D) of the same row."""
    return jnp.einsum("btd,bkd->btk", vectors, others)
