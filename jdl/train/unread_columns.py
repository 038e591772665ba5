"""Columns that a loss does not read, though they are there for it: categories, and weights."""

from __future__ import annotations

import jax

from jdl.data.dataflow import dependences
from jdl.data.loader import DatasetLoader
from jdl.data.table import TableDataset
from jdl.run import Run
from jdl.types import Batch, Key

WEIGHT = "weight"  # what jdl.data.csv, parquet and frame make of weight="..."
GIVE_CATEGORIES = (
    "one_hot=True of jdl.data.csv, parquet or frame puts them into x; or jdl.adapt_model(model, "
    'inputs=("x", "codes")) gives a model with an embedding both, such as TabularMLP'
)
GIVE_WEIGHTS = (
    "The loss does not read the column weight, and counts all rows alike: "
    'row_weights="weight" of the objective, as in jdl.objectives.classify, weights them.'
)


def unread_categories(run: Run) -> tuple[str, ...]:
    """The categories of a table of which the loss in training does not depend."""
    dataset = run.train.dataset if isinstance(run.train, DatasetLoader) else None
    if not isinstance(dataset, TableDataset) or _is_read(run, "codes"):
        return ()
    return tuple(category.name for category in dataset.encoding.categories)


def _is_read(run: Run, column: str) -> bool:
    """Whether the loss in training depends on a column, by its jaxpr; true if there is none."""
    learner, spec = run.learner, run.train.spec
    if column not in spec:
        return True

    def loss(values: jax.Array, key: Key, batch: Batch) -> object:
        batch = {**batch, column: values}
        variables = learner.eval_variables(learner.init(key, batch))
        return learner.objective.loss(variables, batch, key, True).loss

    key = jax.eval_shape(jax.random.key, 0)
    outputs = dependences(jax.make_jaxpr(loss)(spec[column], key, spec).jaxpr)
    return any(0 in output.inputs for output in outputs)


def unread_notes(run: Run) -> list[str]:
    """Notes for the user on categories that the model, and weights that the loss does not read."""
    notes = []
    if names := unread_categories(run):
        notes += [f"The model does not read the categories {', '.join(names)}: {GIVE_CATEGORIES}."]
    return notes if _is_read(run, WEIGHT) else [*notes, GIVE_WEIGHTS]
