"""Predictions of a trained run for inputs in files, as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data import LabelledText, arrays
from jdl.data.loader import DatasetLoader
from jdl.inspect.inputs import read_inputs
from jdl.inspect.restore import TrainedRun
from jdl.objectives.predict import predict_all
from jdl.sampling import decode_until_end
from jdl.types import Error, Predicts, Run


def predict(
    trained: TrainedRun, inputs: Sequence[Path], batch_size: int = 256
) -> list[dict[str, Any]]:
    """Predictions for image files, rows of x in npz files, or lines and tables of text: dicts.

    Each row has `input`, the name of the input, and the objective's predictions. The transforms of
    the run's evaluation data are applied to the inputs. Raises `Error` where their shape does not
    fit the model, and for an objective that does not predict.
    """
    run, objective = trained.run, trained.objective
    if not isinstance(objective, Predicts):
        raise Error(f"The objective of {run.config.name} has no predictions: try `jdl sample`.")
    data = run.test or run.valid
    if not isinstance(data, DatasetLoader):
        raise Error(
            f"{run.config.name} has no evaluation data from a jdl.data.Dataset, whose "
            "transforms the inputs need: add Run(test=...)."
        )
    labelled = data.dataset if isinstance(data.dataset, LabelledText) else None
    names, columns = read_inputs(inputs, data.spec, run.tokenizer, labelled)
    batches = arrays((), **columns).map(*data.transforms).batches(min(batch_size, len(names)))
    predictions = predict_all(objective, trained.variables, batches)
    return [
        {"input": name, **_readable_row(predictions, row, run)} for row, name in enumerate(names)
    ]


def _readable_row(predictions: dict[str, np.ndarray], row: int, run: Run) -> dict[str, Any]:
    """A row of the predictions, with class names in place of labels and text in place of tokens."""
    values: dict[str, Any] = {name: column[row].tolist() for name, column in predictions.items()}
    if run.labels and "label" in values:
        values["label"] = run.labels[values["label"]]
    if run.labels and "labels" in values:
        labels = values["labels"][: values.pop("length")]
        values["labels"] = " ".join(run.labels[label] for label in labels)
    if run.tokenizer and "tokens" in values:
        values["text"] = decode_until_end(run.tokenizer, predictions["tokens"][row])
        del values["tokens"]
    return values


def to_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV; a list of K numbers takes K columns."""
    flat_rows = [_flatten(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat_rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows)
    return text.getvalue()


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            flat |= {f"{name}_{k}": v for k, v in enumerate(np.ravel(value).tolist())}
        else:
            flat[name] = value
    return flat


def to_json(rows: list[dict[str, Any]]) -> str:
    """The rows as a JSON list."""
    return json.dumps(rows, indent=1) + "\n"
