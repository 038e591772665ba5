"""Sanity checks of the rows: what a row's outputs depend on, and what they must not depend on.

All of them change a part of the batch and compare, in evaluation: BatchNorm mixes rows in training,
and may.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.subject import (
    Evaluated,
    Subject,
    by_name,
    differ,
    differences,
    rows_of,
)
from jdl.inspect.sanity.training import NO_DATA
from jdl.metrics import Rows, merge, scalars
from jdl.objectives.heads import Heads
from jdl.objectives.language_modelling import MaskedToken, NextToken
from jdl.objectives.supervised import Supervised
from jdl.train.evaluate import USE_MASK, real_rows_of_last
from jdl.train.placement import splits
from jdl.types import CACHE, Batch, Mean

EMPTY = "Of no steps a mean divides by 0: by jnp.maximum(mask.sum(1, keepdims=True), 1) instead"
SAME = 3  # batches
ONE_ROW = "a batch has one row, and so no other row to compare with"
BOOKKEEPING = ("id", "mask")  # columns that no model reads
DETERMINISTIC = (Supervised, Heads, NextToken, MaskedToken)  # in evaluation, and their subclasses


def check_repeats(subject: Subject) -> Finding:
    """Evaluation of the same batch twice: without dropout or other noise it is the same."""
    name = "deterministic"
    if not subject.has_rows:
        return Finding(name, "n/a", NO_DATA)
    first, second = subject.evaluated, subject.evaluated_again
    if not _draws(subject):
        return Finding(name, "ok", "the same batch evaluated twice gives the same")
    text = f"the same batch twice: loss {first.loss:.6g}, and {second.loss:.6g} with another key"
    if isinstance(subject.objective, DETERMINISTIC):
        return Finding(name, "wrong", text, "Is dropout, or another noise, on in evaluation too?")
    if subject.is_own:
        return Finding(name, "note", f"{text}; this objective draws random numbers, as it should")
    advice = "Fine of an objective that draws, as a VAE; or is dropout on in evaluation too?"
    return Finding(name, "note", text, advice)


def check_batches(subject: Subject) -> Finding:
    """Whether the first batches of the training differ: a loader may draw each from one key."""
    name = "batches differ"
    if not subject.has_rows or len(subject.run.train) < 2:
        return Finding(name, "n/a", NO_DATA if not subject.has_rows else "an epoch is one batch")
    first, *others = (
        {
            column: np.asarray(x).tobytes()
            for column, x in batch.items()
            if column not in BOOKKEEPING
        }
        for batch in subject.batches(SAME)
    )
    if not first:
        return Finding(name, "n/a", "the data have no columns but the rows' numbers")
    if all(batch == first for batch in others):
        text = (
            f"the first {SAME} batches hold the same numbers, and so each step sees the same rows"
        )
        advice = "If that is not meant, draw batch i from jax.random.fold_in(key, i)"
        return Finding(name, "note", text, advice)
    return Finding(name, "ok", f"the first {SAME} batches are not all the same")


def check_rows(subject: Subject) -> Finding:
    """Whether the outputs of a row depend on other rows of the batch in evaluation."""
    name = "rows independent"
    if not subject.has_rows:
        return Finding(name, "n/a", NO_DATA)
    batch, half = subject.batch, rows_of(subject.batch) // 2
    if not half:
        return Finding(name, "n/a", "a batch has one row")
    other = _with_other_rows(batch, half)
    before, after = subject.evaluated, subject.evaluate(other)
    if not before.outputs:
        return Finding(name, "n/a", "this objective shows no outputs by row; see padding masked")
    if not (changed := differences(before.outputs, after.outputs, slice(half))):
        return Finding(name, "ok", "no output of a row changes with the other rows of the batch")
    amount = max(
        float(np.abs(before.outputs[n][:half] - after.outputs[n][:half]).max()) for n in changed
    )
    place = first_mixing_layer(subject, batch, other, half)
    text = f"outputs of a row change with the other rows, by {amount:.2g}" + (
        f", seen first in the output of {place}" if place else ""
    )
    advice = "BatchNorm in training mode, or a mean, softmax or norm over axis 0 (the rows)"
    return Finding(name, "wrong", text, advice)


def _with_other_rows(batch: Batch, half: int) -> Batch:
    """The batch with rows of its first half in place of the second half."""
    rows = rows_of(batch)
    index = np.concatenate([np.arange(half), np.arange(rows - half) % half])
    return {n: column if n == "mask" else column[index] for n, column in batch.items()}


def first_mixing_layer(subject: Subject, batch: Batch, other: Batch, half: int) -> str:
    """The first layer of Flax Linen whose outputs of the first rows differ, computed eagerly."""
    traces = []
    for given in (batch, other):
        outputs: list[tuple[str, Any]] = []

        def record(call: Any, args: Any, kwargs: Any, context: Any, seen: Any = outputs) -> Any:
            output = call(*args, **kwargs)
            module = context.module
            place = "/".join(module.path) or "the model"
            seen.append((f"{place} ({type(module).__name__})", output))
            return output

        with nn.intercept_methods(record):
            subject.outputs(subject.variables(subject.early), given)
        traces.append(outputs)
    for (name, before), (_, after) in zip(*traces, strict=False):
        if _rows_differ(before, after, half):
            return name
    return ""


def _rows_differ(before: Any, after: Any, half: int) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(
        isinstance(a, jax.Array)
        and not isinstance(a, jax.core.Tracer)
        and a.ndim > 0
        and differ(np.asarray(a[:half]), np.asarray(b[:half]))
        for a, b in pairs
    )


def check_padding(subject: Subject) -> Finding:
    """Whether padding rows, where the mask is false, count in the loss, or in a metric."""
    name, batch = "padding masked", subject.batch
    half = rows_of(batch) // 2
    if not subject.has_rows or "mask" not in batch or not half:
        return Finding(name, "n/a", NO_DATA if not subject.has_rows else "there is no mask")
    masked = {**batch, "mask": batch["mask"].at[half:].set(False)}
    other = _with_other_rows(masked, half)
    grads = replace(subject, batch=masked).gradients if subject.learner.has_grads else {}
    if bad := [path for path, grad in grads.items() if not np.isfinite(np.asarray(grad)).all()]:
        text = f"rows whose mask is false make the gradient of {bad[0]} not finite"
        return Finding(name, "wrong", text, EMPTY)
    a, b = subject.evaluate(masked), subject.evaluate(other)
    whole = subject.evaluated
    alone = None if _draws(subject) or CACHE in subject.early.model_state else _alone(batch, half)
    c = subject.evaluate(alone) if alone is not None else a
    value = c.loss
    same = not differ(a.total, b.total) and not differ(a.count, b.count)
    if same and _close(a.loss, value):
        return _padded_metrics(subject, a, b, c)
    if differences(
        whole.outputs, subject.evaluate(_with_other_rows(batch, half)).outputs, slice(half)
    ):
        text = "padding rows change the loss of real rows"
        return Finding(name, "wrong", text, "Rows mix in the model: see above")
    if same:
        text = f"{a.loss:.4g} is the loss of {half} rows beside padding, {value:.4g} alone"
        return Finding(name, "wrong", text, "Divide by the number of real rows: Mean.of(x, mask)")
    if not differ(a.total, whole.total):
        text = "padding rows count in the loss: it ignores the mask"
        advice = "Use Mean.of(losses, batch.get('mask')): the last batch of an epoch is padded"
        is_padded = any(map(real_rows_of_last, splits(subject.run).values()))
        return Finding(name, "wrong" if is_padded else "note", text, advice)
    text = "the loss of real rows changes with what padding rows contain"
    advice = "The loss mixes rows (a softmax or mean over axis 0?), or masks only in part"
    return Finding(name, "wrong", text, advice)


def _padded_metrics(subject: Subject, masked: Evaluated, other: Evaluated, alone: Any) -> Finding:
    """Whether a metric in evaluation counts padding, where the loss does not."""
    name = "padding masked"
    counting = [
        metric
        for metric, values in masked.metrics.items()
        if _counts_padding(values, other.metrics[metric], alone.metrics[metric])
    ]
    if not counting:
        text = "rows whose mask is false have no effect on the loss and the metrics"
        return Finding(name, "ok", text)
    evaluations = [data for split, data in splits(subject.run).items() if split != "train"]
    text = f"the metric {', '.join(counting)} counts padding: it ignores the mask"
    return Finding(
        name, "wrong" if any(map(real_rows_of_last, evaluations)) else "note", text, USE_MASK
    )


def _counts_padding(masked: Any, other: Any, alone: Any) -> bool:
    """Whether a metric changes with padding rows, or is another one without them."""
    if isinstance(masked, Rows):  # its function may not be defined for a few rows
        rows = [by_name(metric.on_host()) for metric in (masked, other, alone)]
        return any(len(rows[0][n]) != len(rows[2][n]) for n in rows[0]) or bool(
            differences(rows[0], rows[1])
        )
    if isinstance(masked, Mean) and differ(np.asarray(masked.count), np.asarray(alone.count)):
        return True
    first, second, third = (
        list(scalars(merge([{"": metric}])).values()) for metric in (masked, other, alone)
    )
    return any(map(differ, first, second)) or not all(map(_close, first, third))


def _draws(subject: Subject) -> bool:
    """Whether the evaluation draws random numbers: for other rows it would draw others."""
    a, b = subject.evaluated, subject.evaluated_again
    return differ(a.loss, b.loss) or bool(differences(a.outputs, b.outputs))


def _alone(batch: Batch, half: int) -> Batch:
    return {name: column[:half] for name, column in batch.items()}


def _close(a: float, b: float) -> bool:
    """Equal but for the rounding of another batch size."""
    return bool(np.isclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True))


def check_future(subject: Subject) -> Finding:
    """Whether a language model's prediction of a token depends on tokens that come later."""
    name, batch = "causality", subject.batch
    if not isinstance(subject.objective, NextToken):
        return Finding(name, "n/a", "no causal language model")
    if rows_of(batch) < 2:
        return Finding(name, "n/a", ONE_ROW)
    length = batch["x"].shape[1]
    before = subject.evaluated.outputs
    for cut in sorted({1, length // 3, 2 * length // 3} - {0}):
        later = jnp.roll(batch["x"][:, cut:], 1, 0)
        after = subject.evaluate({**batch, "x": batch["x"].at[:, cut:].set(later)}).outputs
        early = (slice(None), slice(cut))
        if differences(before, after, early):
            text = f"predictions before token {cut} change with the tokens from there on"
            advice = "A causal mask is missing, or the padding of a convolution looks ahead"
            return Finding(name, "wrong", text, advice)
    return Finding(name, "ok", "no prediction depends on a later token")


def check_labels_in_inputs(subject: Subject) -> Finding:
    """Whether the model's outputs depend on the column y: then it reads what it should predict."""
    name = "label as input"
    if not isinstance(subject.objective, Supervised | Heads) or "y" not in subject.batch:
        return Finding(name, "n/a", "no supervised learning")
    if rows_of(subject.batch) < 2:
        return Finding(name, "n/a", ONE_ROW)
    moved = {**subject.batch, "y": jnp.roll(subject.batch["y"], 1, 0)}
    if differences(subject.evaluated.outputs, subject.evaluate(moved).outputs):
        text = "the model's outputs change with y: it reads the labels that it should predict"
        return Finding(name, "wrong", text, "Leave y out of the model's inputs")
    return Finding(name, "ok", "the model's outputs do not depend on y")
