"""What is explained: a trained run, and rows of its evaluation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.look import name_of
from jdl.data.table import TableDataset
from jdl.explain.score import Score, score
from jdl.figures.rows import is_image, value_range
from jdl.inspect.restore import TrainedRun
from jdl.objectives.override import merge
from jdl.types import Batch, Error, Loader, Objective, Predicts, Variables

SHORTEST = 24  # letters of a label that are shown beside a picture


@dataclass(frozen=True)
class Subject:
    """A trained run, and the rows of its evaluation data (test, or else valid) that are shown.

    `by` is a column to group the rows by, and `other` a second run of the same model. Raises
    `Error` for a run without evaluation data, and for rows that they do not have.
    """

    trained: TrainedRun
    rows: tuple[int, ...]
    by: str = ""
    other: TrainedRun | None = None

    def __post_init__(self) -> None:
        run = self.trained.run
        if run.test is None and run.valid is None:
            raise Error(f"{run.config.name} has no evaluation data, of which rows are explained.")
        count = self.data.num_examples
        if wrong := [row for row in self.rows if not 0 <= row < count]:
            raise Error(
                f"There is no row {wrong[0]} in the {self.split} data: rows are 0 to {count - 1:,}."
            )

    @property
    def split(self) -> str:
        """The name of the evaluation data."""
        return "valid" if self.trained.run.test is None else "test"

    @property
    def data(self) -> Loader:
        """The evaluation data."""
        run = self.trained.run
        data = run.valid if run.test is None else run.test
        assert data is not None
        return data

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.trained.run.labels

    @cached_property
    def merged(self) -> tuple[Objective, Variables]:
        """The objective and its variables as they are handed over: adapters merged."""
        return merge(self.trained.objective, self.trained.variables)

    @cached_property
    def batch(self) -> Batch:
        """The rows as a batch."""
        return self._as_batch(self.take(self.rows))

    @cached_property
    def score(self) -> Score:
        """The score of the largest output of each row."""
        return score(*self.merged, self.batch)

    @cached_property
    def any_score(self) -> Score:
        """The score of the first output: for the layers, which are those of all outputs."""
        return score(*self.merged, self.batch, chosen=0)

    @cached_property
    def predictions(self) -> Mapping[str, np.ndarray]:
        """The predictions for all rows of the evaluation data, with the column y if it has one."""
        if not isinstance(self.trained.objective, Predicts):
            raise Error(f"{type(self.trained.objective).__name__} predicts nothing.")
        return self.trained.predict_all(self.data, ["y"] if "y" in self.data.spec else [])

    def classified(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The true classes, the predicted ones, and their probabilities, (N,) each.

        Raises `Error` unless one class of each row is predicted and known.
        """
        found = self.predictions
        y, label = found.get("y"), found.get("label")
        if y is None or label is None or "probability" not in found or label.ndim != 1:
            raise Error("The run does not classify rows: it predicts no class of each.")
        if y.ndim == 2:  # soft labels
            y = y.argmax(-1)
        if y.shape != label.shape:
            raise Error("The run does not classify rows: their classes are not known.")
        return y.astype(np.int64), label.astype(np.int64), found["probability"].max(-1)

    def take(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """The columns of some rows, in the given order; the same as the model gets them."""
        wanted, parts, first = sorted(set(rows)), list[dict[str, np.ndarray]](), 0
        for i in range(len(self.data)):
            if first > wanted[-1]:
                break
            batch = {name: np.asarray(column) for name, column in self.data[i].items()}
            mask = batch.pop("mask", np.ones(len(next(iter(batch.values()))), bool)).astype(bool)
            places = np.flatnonzero(mask)
            mine = [row - first for row in wanted if first <= row < first + len(places)]
            parts.append({name: column[places[mine]] for name, column in batch.items()})
            first += len(places)
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.searchsorted(wanted, rows)
        return {name: column[order] for name, column in found.items()}

    def sample(self, count: int) -> list[int]:
        """So many rows of the evaluation data, or all: drawn with a fixed seed, and sorted."""
        total = self.data.num_examples
        drawn = np.random.default_rng(0).choice(total, min(count, total), replace=False)
        return sorted(drawn.tolist())

    def batches(self, rows: Sequence[int]) -> list[Batch]:
        """Some rows as batches of the data's size."""
        columns, size = self.take(rows), self.data.batch_size
        return [
            self._as_batch({name: column[n : n + size] for name, column in columns.items()})
            for n in range(0, len(rows), size)
        ]

    def _as_batch(self, columns: Mapping[str, np.ndarray]) -> Batch:
        """Real rows as a batch: with a mask, as every batch of the data has it."""
        batch = {name: jnp.asarray(column) for name, column in columns.items()}
        mask = self.data.spec.get("mask")
        if mask is not None:
            batch["mask"] = jnp.ones(len(next(iter(batch.values()))), mask.dtype)
        return batch

    def images(self, rows: Sequence[int]) -> np.ndarray:
        """The images x (N, H, W, 1 or 3) of some rows, from 0 to 1; `Error` for other data."""
        spec = self.data.spec.get("x")
        if spec is None or not is_image(spec):
            raise Error("The rows are no images (H, W, 1 or 3).")
        x = self.take(rows)["x"].astype(np.float64)
        low, high = value_range(x)
        return (x - low) / ((high - low) or 1)

    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns of x, of a table; else none."""
        dataset: Any = self.data.dataset if isinstance(self.data, DatasetLoader) else None
        names = dataset.encoding.feature_names if isinstance(dataset, TableDataset) else ()
        spec = self.data.spec.get("x")
        return names if spec is not None and spec.shape[1:] == (len(names),) else ()

    def titles(self) -> list[str]:
        """Of each row: its number, what it is, and what is predicted."""
        try:
            y, label, confidence = self.classified()
        except Error:
            return [f"row {row}" for row in self.rows]
        return [
            f"row {row}: {self.name(y[row])}\n"
            f"predicted {self.name(label[row])} ({confidence[row]:.2f})"
            for row in self.rows
        ]

    def name(self, k: Any) -> str:
        """The name of a class, shortened."""
        name = name_of(int(k), self.labels)
        return name if len(name) <= SHORTEST else f"{name[: SHORTEST - 3]}..."
