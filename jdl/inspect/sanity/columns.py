"""Sanity checks of the columns: whether the loss and the outputs depend on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.rows import BOOKKEEPING, ONE_ROW
from jdl.inspect.sanity.subject import Evaluated, Subject, differences, rows_of
from jdl.inspect.sanity.training import NO_DATA
from jdl.objectives.adapted_model import AdaptedModel
from jdl.train.unread_columns import GIVE_CATEGORIES, unread_categories
from jdl.types import Array, Batch, Variables

HIDES = "Dead ReLUs, weights or factors of 0, or rounding hide it: see unused parameters"
MOST_FEATURES = 512  # of a table: the last window of a longer sound may be left out


def check_columns(subject: Subject) -> Finding:
    """Whether the loss depends on each column: on the inputs of the model, and on the labels."""
    name = "unused columns"
    if not subject.has_rows:
        return Finding(name, "n/a", NO_DATA)
    if rows_of(subject.batch) < 2:
        return Finding(name, "n/a", ONE_ROW)
    unused: list[str] = []
    used: list[str] = []
    before = subject.evaluated
    for column, other in _shifted_columns(subject.batch):
        same = _same_bits(before, subject.evaluate(other))
        (unused if same else used).append(column)
    if names := unread_categories(subject.run):
        text = f"the loss does not depend on codes: the categories {', '.join(names)}"
        return Finding(name, "wrong", text, GIVE_CATEGORIES)
    if wrong := [column for column in unused if column in _inputs(subject)]:
        if hidden := [column for column in wrong if subject.reads[column]]:
            text = f"no output changes with {', '.join(hidden)}, which the model reads"
            return Finding(name, "wrong", text, HIDES)
        advice = "Pass it on in the model, or leave it out of the data and of the model's inputs"
        return Finding(name, "wrong", f"the model ignores {', '.join(wrong)}", advice)
    if subject.is_own:
        unused = [column for column in unused if column != "y"]
    if unused:
        text = f"nothing depends on {', '.join(unused)}"
        return Finding(name, "note", text, "Fine, if they are there for other uses")
    return Finding(name, "ok", f"the loss or a metric depends on {', '.join(used)}")


def _same_bits(a: Evaluated, b: Evaluated) -> bool:
    """Whether two evaluations are equal to the bit: beside a huge loss, what matters is small."""
    leaves = zip(jax.tree.leaves(vars(a)), jax.tree.leaves(vars(b)), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


def check_features(subject: Subject) -> Finding:
    """Whether the outputs depend on each feature of a table x (B, F), by the gradient."""
    name, x = "unused features", subject.batch.get("x")
    if x is None or x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return Finding(name, "n/a", "x is no table of numbers")
    if x.shape[1] > MOST_FEATURES:
        return Finding(name, "n/a", f"x is no table: it has {x.shape[1]:,} numbers, as a sound has")
    outputs = subject.evaluated.outputs
    if not any(out.dtype.kind == "f" for out in outputs.values()):
        return Finding(name, "n/a", "this objective shows no outputs by row")

    def total(x: Array, variables: Variables) -> Array:
        out = jax.tree.leaves(subject.outputs(variables, {**subject.batch, "x": x}))
        floats = [leaf for leaf in out if jnp.issubdtype(leaf.dtype, jnp.floating)]
        # Weighted, because some outputs, such as those of a softmax, have a constant sum.
        weights = (
            1 + jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape) for leaf in floats
        )
        return sum((weight * leaf).sum() for weight, leaf in zip(weights, floats, strict=True))

    grad = jax.jit(jax.grad(total))(x, subject.variables(subject.early))
    zero = np.flatnonzero(~np.asarray(grad).any(0)).tolist()
    if len(zero) and len(x) < 2:
        return Finding(name, "n/a", ONE_ROW)
    # Of a category that is read as an integer the gradient is 0, and the outputs change.
    zero = [n for n in zero if not differences(outputs, _moved_feature(subject, n))]
    if len(zero) == x.shape[1]:
        return Finding(name, "n/a", "the outputs do not depend on x; see unused columns")
    if not len(zero):
        return Finding(name, "ok", f"the outputs depend on each of the {x.shape[1]} features of x")
    text = f"the outputs do not depend on the features {', '.join(map(str, zero[:10]))} of x"
    return Finding(name, "wrong", text, "Is x cut, or a weight fixed at 0?")


def _moved_feature(subject: Subject, feature: int) -> dict[str, np.ndarray]:
    """The outputs where a feature of x is moved by one row."""
    x = subject.batch["x"]
    moved = x.at[:, feature].set(jnp.roll(x[:, feature], 1))
    return subject.evaluate({**subject.batch, "x": moved}).outputs


def _shifted_columns(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """The batch with one column moved by one row, for each column whose rows differ."""
    for name, column in batch.items():
        moved = jnp.roll(column, 1, 0)
        if name not in BOOKKEEPING and not np.array_equal(moved, column):
            yield name, {**batch, name: moved}


def _inputs(subject: Subject) -> tuple[str, ...]:
    """Columns that the model should read."""
    model = getattr(subject.objective, "model", None)
    named: tuple[str, ...] = ("x",)  # a baseline may ignore edges, and a padded row's length
    if isinstance(model, AdaptedModel) and model.inputs is not None:
        inputs: Any = () if callable(model.inputs) else model.inputs
        named = tuple(inputs.values() if isinstance(inputs, dict) else inputs)
    return named
