"""A trained run, taken from its folder: to evaluate it, to predict with it, to take its digest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data import Dataset, arrays
from jdl.data.loader import DatasetLoader
from jdl.sampling import decode_until_end
from jdl.metrics import scalars
from jdl.store.checkpoints import Checkpoints
from jdl.train.evaluate import evaluator
from jdl.train.experiment import rebuild
from jdl.inspect.inputs import read_inputs
from jdl.types import Error, Run, State


@dataclass(frozen=True)
class Restored:
    """The experiment of a folder and one of its states."""

    run: Run
    state: State

    @property
    def step(self) -> int:
        """The step of the state."""
        return int(self.state.step)


def restore(folder: Path, best: bool = False) -> Restored:
    """The run of a folder with its newest, or its best, checkpoint."""
    run = rebuild(folder)
    checkpoints = Checkpoints(folder / "checkpoints", run.best, read_only=True)
    try:
        step = checkpoints.best() if best else checkpoints.latest()
        if step is None:
            raise Error(f"{folder} has no {'evaluated ' if best else ''}checkpoint yet.")
        like = jax.eval_shape(run.learner.init, jax.random.key(run.config.seed), run.train[0])
        state, _ = checkpoints.restore(like, step)
    finally:
        checkpoints.close()
    return Restored(run, state)


def evaluate(restored: Restored) -> dict[str, dict[str, float]]:
    """The metrics on each of the run's evaluation sets, by split."""
    splits = {"valid": restored.run.valid, "test": restored.run.test}
    learner, state = restored.run.learner, restored.state
    found = {
        name: scalars(evaluator(learner, data)(state))
        for name, data in splits.items()
        if data is not None
    }
    return found | (
        {"score": restored.run.score(learner.eval_variables(state))} if restored.run.score else {}
    )


def predict(restored: Restored, inputs: Sequence[Path], size: int = 256) -> list[dict[str, Any]]:
    """What the model says of image files, of the rows of x in npz files, or of the lines of text files.

    One dict a row, with where it is from. The inputs go through the transforms of the run's evaluation data. `Error`
    where their shape is not the model's.
    """
    learner = restored.run.learner
    say = learner.objective.predict
    if say is None:
        raise Error(f"{restored.run.config.name} has an objective that predicts nothing.")
    data = restored.run.test or restored.run.valid
    if not isinstance(data, DatasetLoader):
        raise Error("The run has no evaluation data, whose transforms the inputs would go through.")
    names, columns = read_inputs(inputs, data.spec, restored.run.tokenizer)
    examples = Dataset(
        arrays((), **columns).source, np.arange(len(names), dtype=np.int32), data.transforms
    )
    batches = examples.batches(min(size, len(names)))
    look = jax.jit(lambda state, batch: say(learner.eval_variables(state), batch))
    rows: list[dict[str, Any]] = []
    for i in range(len(batches)):
        batch = batches[i]
        said = jax.tree.map(np.asarray, look(restored.state, batch))
        for row in np.flatnonzero(np.asarray(batch["mask"])).tolist():
            rows.append({"input": names[len(rows)], **_readable(said, row, restored.run)})
    return rows


def _readable(columns: dict[str, np.ndarray], row: int, run: Run) -> dict[str, Any]:
    """A row's columns with names for labels, and text for tokens."""
    found: dict[str, Any] = {name: column[row].tolist() for name, column in columns.items()}
    if run.labels and "label" in found:
        found["label"] = run.labels[found["label"]]
    if run.labels and "labels" in found:
        found["labels"] = " ".join(
            run.labels[label] for label in found["labels"][: found.pop("length")]
        )
    if run.tokenizer and "tokens" in found:
        found["text"] = decode_until_end(run.tokenizer, columns["tokens"][row])
        del found["tokens"]
    return found


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV, a list of K numbers as K columns."""
    flat = [dict(_flattened(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flattened(row: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, list):
            pairs += [(f"{name}_{k}", v) for k, v in enumerate(np.ravel(value).tolist())]
        else:
            pairs.append((name, value))
    return pairs


def as_json(rows: list[dict[str, Any]]) -> str:
    """The rows as a JSON list."""
    return json.dumps(rows, indent=1) + "\n"
