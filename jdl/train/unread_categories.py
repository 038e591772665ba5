"""Categories of a table that a model does not read: they lie in the column `codes`."""

from __future__ import annotations

import jax

from jdl.data.dataflow import dependences
from jdl.data.loader import DatasetLoader
from jdl.data.table import TableDataset
from jdl.run import Run
from jdl.types import Batch, Key

GIVE_CATEGORIES = (
    "one_hot=True of jdl.data.csv, parquet or frame puts them into x; or jdl.adapt_model(model, "
    'inputs=("x", "codes")) gives a model with an embedding both, such as TabularMLP'
)


def unread_categories(run: Run) -> tuple[str, ...]:
    """The categories of a table of which the loss in training does not depend, by its jaxpr."""
    dataset = run.train.dataset if isinstance(run.train, DatasetLoader) else None
    if not isinstance(dataset, TableDataset) or "codes" not in run.train.spec:
        return ()
    learner, spec = run.learner, run.train.spec

    def loss(codes: jax.Array, key: Key, batch: Batch) -> object:
        batch = {**batch, "codes": codes}
        variables = learner.eval_variables(learner.init(key, batch))
        return learner.objective.loss(variables, batch, key, True).loss

    key = jax.eval_shape(jax.random.key, 0)
    outputs = dependences(jax.make_jaxpr(loss)(spec["codes"], key, spec).jaxpr)
    if any(0 in output.inputs for output in outputs):
        return ()
    return tuple(category.name for category in dataset.encoding.categories)


def unread_notes(run: Run) -> list[str]:
    """A note for the user where a table has categories that the model does not read."""
    if not (names := unread_categories(run)):
        return []
    return [f"The model does not read the categories {', '.join(names)}: {GIVE_CATEGORIES}."]
