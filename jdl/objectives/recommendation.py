"""Recommendation (collaborative filtering): which item will a user have next?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.nn as nn
import jax.numpy as jnp
import numpy as np

from jdl import metrics
from jdl.keys import stream
from jdl.layers import all_gather_batch, psum_batch, row_numbers, sample_rows
from jdl.objectives import model_call
from jdl.objectives.contrastive import info_nce
from jdl.objectives.model_keywords import name_of, signature_of
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Metrics, Variables

RankingLoss = Literal["softmax", "bpr", "in_batch"]
SHOWN = 20  # recommended items in a prediction
LOWEST = -1e9  # a score that nothing else has, and that is finite: so are the gradients


def recommend(
    model: Any,
    loss: RankingLoss = "softmax",
    negatives: int = 0,
    k: int = 10,
    counts: Sequence[int] | np.ndarray | None = None,
) -> Recommendation:
    """Recommendation from implicit feedback (collaborative filtering): a user's next items.

    Rows are those of `jdl.data.interactions`: a user's items x (B, T), their `length`, and the item
    y (B,) to be found. The model gives the scores of all items: (B, T, items) after each item of x,
    as SASRec does, or (B, items), as matrix factorization does. In training each item of a row,
    and y, is a target; in evaluation y alone.

    The loss of a target is the cross-entropy of the softmax over all items, or with `negatives`
    over the target and so many items drawn at each step (sampled softmax). "bpr" is Bayesian
    personalized ranking (Rendle et al., 2009): -log sigmoid(score of the target - score of a
    negative), the mean over `negatives`, or 1. These negatives are drawn uniformly.

    "in_batch" is the softmax over the target and those of all other rows of the batch, on all
    devices (in-batch negatives), with which two-tower models are trained. Popular items are there
    often, so from the score of a negative the log of how often it is expected among the targets of
    the other rows is subtracted (log-Q correction; Yi et al., 2019), by `counts`, how often each
    item is in the training data (`train.item_counts`). The target has no correction, as it is there
    for certain (Khrylchenko et al., 2025). So on average over batches the sum in the softmax is
    about that over the target and all items that the row does not have.

    "in_batch" pays where items are many more than the B T places of a batch, padding included: of
    these each is scored against all, (B T)^2 scores in place of B T for every item.

    Negatives that the row has do not count. They need a model whose call has the argument
    `candidates`, of which it then gives the scores: items (B, T, K), or those of "in_batch", (K,)
    for all rows alike.

    Metrics, in evaluation: recall_at_10 and ndcg_at_10 (of another `k`, by that), among the items
    that are not in x; of a user with more items than x has room for, the oldest may be recommended
    again. The loss of evaluation is the cross-entropy among all items, whatever that of training
    is: choose the best checkpoint by ndcg_at_10. Predictions: `items` (B, 20), the best of these,
    and their `score`.
    """
    if loss not in ("softmax", "bpr", "in_batch"):
        raise Error(f'loss is "softmax", "bpr" or "in_batch", not {loss!r}.')
    if negatives < 0 or k < 1:
        raise Error(f"negatives must be 0 or more and k 1 or more; got {negatives=}, {k=}.")
    if (loss == "in_batch") != (counts is not None) or (loss == "in_batch" and negatives):
        raise Error(
            'recommend(loss="in_batch") needs counts, how often each item is in the training data: '
            "counts=train.item_counts. The other losses take none, and it takes no negatives."
        )
    item_counts = None if counts is None else _item_counts(counts)
    negatives = max(negatives, 1) if loss == "bpr" else negatives
    if (negatives or loss == "in_batch") and "candidates" not in signature_of(
        model, "__call__"
    ).parameters:
        raise Error(
            f"Negatives need a model that has the argument candidates, and {name_of(model)} has "
            'not: add it, or use recommend(model, loss="softmax") with all items.'
        )
    return Recommendation(model, loss, negatives, k, item_counts)


@dataclass(frozen=True, eq=False)
class Recommendation(model_call.ModelObjective):
    """Recommendation from implicit feedback; see `recommend`."""

    ranking_loss: RankingLoss
    negatives: int
    k: int
    counts: np.ndarray | None  # of the items in the training data, for "in_batch"

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean loss of the targets; in evaluation the cross-entropy of y, with its metrics."""
        if not train:
            scores = self._last_scores(variables, batch)
            losses, mask = _cross_entropy(scores, batch["y"][:, None])[:, 0], batch.get("mask")
            ranked = _unseen(scores, batch)
            found: Metrics = {
                f"recall_at_{self.k}": metrics.recall_at_k(ranked, batch["y"], self.k, mask),
                f"ndcg_at_{self.k}": metrics.ndcg_at_k(ranked, batch["y"], self.k, mask),
            }
            return LossOutput(Mean.of(losses, mask), found, _model_state(variables))
        targets = _targets(batch)
        if self.counts is not None:
            losses, model_state = self._in_batch_losses(variables, batch, targets, key)
        elif self.negatives:
            losses, model_state = self._sampled_losses(variables, batch, targets, key)
        else:
            inputs = model_call.model_inputs(self.model, batch)
            out, model_state = model_call.apply(self.model, variables, inputs, batch, key, True)
            losses = _cross_entropy(_without_start(out), targets)
        return LossOutput(Mean.of(losses, _real_targets(batch)), {}, model_state)

    def _sampled_losses(
        self, variables: Variables, batch: Batch, targets: Array, key: Key
    ) -> tuple[Array, Variables]:
        """The losses (B, T) of the targets, each against negatives that are drawn for it."""
        items = jax.eval_shape(self._last_scores, variables, batch).shape[1]

        def draw(key: Key, shape: tuple[int, ...]) -> Array:
            return jax.random.randint(key, shape, 1, items, targets.dtype)

        drawn = sample_rows(draw, stream(key, "negatives"), (*targets.shape, self.negatives))
        own = jnp.concatenate([batch["x"], batch["y"][:, None]], 1)
        wrong = jnp.equal(drawn[..., None], own[:, None, None]).any(-1)  # the user has it
        columns = {**batch, "candidates": jnp.concatenate([targets[..., None], drawn], -1)}
        inputs = model_call.model_inputs(self.model, columns)
        out, model_state = model_call.apply(self.model, variables, inputs, columns, key, True)
        positive, negative = out[..., :1], jnp.where(wrong, LOWEST, out[..., 1:])
        if self.ranking_loss == "bpr":
            count = (~wrong).sum(-1).clip(1).astype(out.dtype)
            losses = nn.softplus(negative - positive).sum(-1) / count
        else:
            scores = jnp.concatenate([positive, negative], -1)
            losses = nn.logsumexp(scores, -1) - positive[..., 0]
        return losses, model_state

    def _in_batch_losses(
        self, variables: Variables, batch: Batch, targets: Array, key: Key
    ) -> tuple[Array, Variables]:
        """The losses (B, T) of the targets, each against those of all rows on all devices."""
        assert self.counts is not None
        mask, others = _real_targets(batch), all_gather_batch(targets.reshape(-1))
        columns = {**batch, "candidates": others}
        inputs = model_call.model_inputs(self.model, columns)
        out, model_state = model_call.apply(self.model, variables, inputs, columns, key, True)
        scores = out.reshape(len(targets), -1, len(others))  # (B, 1, N) of a user's alone
        log_expected = _log_expected(self.counts, mask)[:, others]  # (B, N)
        own = jnp.concatenate([batch["x"], batch["y"][:, None]], 1)
        wrong = jnp.equal(others[None, None], own[..., None]).any(1)  # the user has it
        negatives = jnp.where(wrong[:, None], LOWEST, scores - log_expected[:, None])
        itself = jnp.equal(jnp.arange(len(others))[None], row_numbers(targets.size)[:, None])
        logits = jnp.where(itself.reshape(*targets.shape, -1), scores, negatives)
        losses = info_nce(logits.reshape(itself.shape), mask.reshape(-1))
        return losses.reshape(targets.shape), model_state

    def _last_scores(self, variables: Variables, batch: Batch) -> Array:
        """The scores (B, items) after a row's last item; the start has the lowest."""
        out = model_call.evaluate(self.model, variables, batch)
        if out.ndim == 3:
            out = jnp.take_along_axis(out, (batch["length"] - 1)[:, None, None], 1)[:, 0]
        return _without_start(out)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The best items (B, 20) of those that are not in x, and their scores, best first.

        Where a row has fewer such items, the score of the last ones is -inf.
        """
        scores = _unseen(self._last_scores(variables, batch), batch)
        score, items = jax.lax.top_k(scores, min(SHOWN, scores.shape[1] - 1))
        return {"items": items, "score": score}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if x, length and y are not items, or the model does not score them."""
        x, y = model_call.column(spec), model_call.column(spec, "y")
        model_call.column(spec, "length")
        for name, items, rank in (("x", x, 2), ("y", y, 1)):
            if not jnp.issubdtype(items.dtype, jnp.integer) or items.ndim != rank:
                raise Error(
                    f"recommend needs items x (B, T) and y (B,), whole numbers, but {name} is "
                    f"{items.dtype} of shape {items.shape}: see jdl.data.interactions."
                )
        shape = model_call.output_shape(self.model, spec)
        if len(shape) not in (2, 3) or shape[1:-1] != x.shape[1:][: len(shape) - 2]:
            raise Error(
                f"The model must give the scores of all items, (B, items) or {(*x.shape, 'items')}"
                f", but it gives {shape}."
            )
        if self.counts is not None and self.counts.shape != shape[-1:]:
            raise Error(
                f"counts are of {len(self.counts)} items, and the model scores {shape[-1]}: "
                "counts=train.item_counts has one for each of train.labels."
            )
        for name, first in (("x", 0), ("y", 1), ("length", 1)):
            least, greatest = bounds.get(name, (first, first))
            most = x.shape[1] if name == "length" else shape[-1] - 1
            if least < first or greatest > most:
                raise Error(
                    f"The column {name} is from {least} to {greatest}, and must be from {first} to "
                    f"{most}: item 0 is the start, and the model scores {shape[-1]} items."
                )


def _item_counts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The counts as an array (items,), if they are counts."""
    found = np.asarray(counts, np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found % 1 == 0)).all() or not found.any():
        raise Error(
            "counts must say how often each item is in the training data, by its number, in whole "
            "numbers: counts=train.item_counts."
        )
    return found


def _log_expected(counts: np.ndarray, real_targets: Array) -> Array:
    """The log of how often each item is expected among the targets of other rows: (B, items).

    It is the item's count, times the share of all targets of other rows that is in this batch. The
    row's own do not count: they are there for certain, and never its negatives. An item that never
    occurred has the count of the rarest.
    """
    own = real_targets.sum(1).astype(jnp.float32)
    in_batch = psum_batch(own.sum()) - own
    in_data = jnp.float32(counts.sum()) - own
    log_share = jnp.log(in_batch.clip(1)) - jnp.log(in_data.clip(1))
    log_counts = np.log(np.maximum(counts, counts[counts > 0].min())).astype(np.float32)
    return log_share[:, None] + log_counts[None]


def _model_state(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != "params"}


def _targets(batch: Batch) -> Array:
    """The item after each of x (B, T): y after the last."""
    x, y, last = batch["x"], batch["y"], batch["length"] - 1
    following = jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], 1)
    return jnp.where(jnp.arange(x.shape[1])[None] == last[:, None], y[:, None], following)


def _real_targets(batch: Batch) -> Array:
    """The mask (B, T) of the targets that are items, in real rows."""
    mask = model_call.time_mask(batch)
    assert mask is not None  # there is a length
    return mask


def _without_start(scores: Array) -> Array:
    """The scores (..., items) with the lowest for item 0, the start, which nobody can have."""
    return scores.at[..., 0].set(LOWEST)


def _unseen(scores: Array, batch: Batch) -> Array:
    """The scores (B, items) with -inf for the items of x, and for the start."""
    return jax.vmap(lambda row, x: row.at[x].set(-jnp.inf).at[0].set(-jnp.inf))(scores, batch["x"])


def _cross_entropy(scores: Array, targets: Array) -> Array:
    """The cross-entropy at targets (B, T) of scores (B, items) or (B, T, items)."""
    log_probability = nn.log_softmax(scores)
    if scores.ndim == 2:
        return -jnp.take_along_axis(log_probability, targets, 1)
    return -jnp.take_along_axis(log_probability, targets[..., None], 2)[..., 0]
