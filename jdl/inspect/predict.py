"""Predictions of a trained run for inputs in files, as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data import arrays
from jdl.data.loader import DatasetLoader
from jdl.data.look import sequence_text
from jdl.data.neighbor_loader import NeighborLoader
from jdl.data.table import TableDataset
from jdl.figures.detections import is_detector
from jdl.figures.forecasts import is_forecast, is_value
from jdl.figures.keypoints import is_pose
from jdl.figures.masks import is_segmentation
from jdl.figures.retrieval import is_retriever
from jdl.figures.speech import is_speech
from jdl.inspect.answers import answer_rows
from jdl.inspect.detections import detected_rows
from jdl.inspect.forecasts import forecast_rows
from jdl.inspect.inputs import ReadsFiles, check_names, read_inputs
from jdl.inspect.keypoints import keypoint_rows
from jdl.inspect.masks import write_masks
from jdl.inspect.recommended import recommended_rows
from jdl.inspect.restore import TrainedRun
from jdl.inspect.retrieval import ranked_rows
from jdl.inspect.speech import spoken_rows
from jdl.inspect.tagged import read_words, tagged_rows
from jdl.learners.population import PopulationObjective
from jdl.objectives.contrastive import is_of_y
from jdl.run import Run
from jdl.sampling import decode_until_end
from jdl.types import Batch, Error, Predicts, Tokenizer


def predict(
    trained: TrainedRun, inputs: Sequence[Path], batch_size: int = 256, out: Path | None = None
) -> list[dict[str, Any]]:
    """Predictions for images, sounds, rows of npz files or tables, or texts: a dict a row.

    npz files hold the columns that the predictions read, most often x, by their names. Each row has
    `input`, the name of the input, and the objective's predictions; that of a tagger has `words`
    and `tags`, that of a question its `answer`, that of a query what it finds (`ranked_rows`). A
    detector gives a row for each object (`detected_rows`), pose estimation one for each keypoint
    (`keypoint_rows`), a recommender one for each item (`recommended_rows`), a forecast one for each
    step ahead (`forecast_rows`), text to speech one for each line (`spoken_rows`). With a folder
    `out`, masks of images (semantic segmentation) are written there by `write_masks`, and the rows
    are what it gives; forecasts are drawn there, and what is said is written there as WAV files.
    Inputs are treated as the run's evaluation data: if these are files, new files are read alike,
    and the transforms are applied. Values of a target that `jdl.data.csv(standardize_target=True)`
    standardized are in the table's unit.

    Raises `Error` where their shape does not fit the model, for arrays without names where that is
    of a table, and for an objective that does not predict.
    """
    _check_predicts(trained)
    run, objective, data = trained.run, trained.objective, evaluation_data(trained.run)
    if is_detector(objective, trained.variables, data.spec):
        return detected_rows(trained, data, inputs, batch_size)
    if is_pose(objective, trained.variables, data.spec):
        return keypoint_rows(trained, data, inputs, batch_size)
    if is_speech(objective, trained.variables, data.spec):
        return spoken_rows(trained, data, inputs, batch_size, out)
    spec, retrieves = data.spec, is_retriever(objective, trained.variables, data.spec)
    if retrieves:  # the inputs are the x alone
        spec = {name: part for name, part in spec.items() if not is_of_y(name)}
    if isinstance(data.dataset, TableDataset):
        check_names(inputs, data.dataset.encoding.names)
    needed = _columns_of_predictions(trained, spec)
    of_files = _before_transforms(data, spec)
    names, columns = read_inputs(inputs, of_files, run.tokenizer, needed, _reader(data))
    batches = arrays((), **columns).map(*data.transforms).batches(min(batch_size, len(names)))
    if retrieves:
        return ranked_rows(trained, data, names, batches)
    predictions = trained.predict_all(batches)
    if out is not None and is_segmentation(data.spec, predictions):
        return write_masks(names, columns["x"], predictions, run.labels, out)
    if is_forecast(data.dataset, predictions):
        return forecast_rows(names, columns["x"], predictions, data.dataset, out)
    label, words = predictions.get("label"), read_words(data.dataset, inputs)
    if words and run.labels and label is not None and label.ndim == 2:
        return tagged_rows(names, words, label, run.labels)
    predictions = _in_unit(data.dataset, predictions)
    recommended = recommended_rows(names, predictions, run.labels or data.dataset.labels)
    return (
        recommended
        or answer_rows(data.dataset, inputs, predictions)
        or [
            {"input": name, **readable_row(predictions, row, run.labels, run.tokenizer)}
            for row, name in enumerate(names)
        ]
    )


def _check_predicts(trained: TrainedRun) -> None:
    name = trained.run.config.name
    if isinstance(trained.run.learner.objective, PopulationObjective):
        raise Error(
            f"{name} is a population, and only its members predict: "
            "jdl.learners.population.member(trained.variables, n) has the variables of one."
        )
    if not isinstance(trained.objective, Predicts):
        raise Error(f"The objective of {name} has no predictions: try `jdl sample`.")


def _in_unit(dataset: Any, predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Predictions of a table's target in its own unit, if it was standardized."""
    if not isinstance(dataset, TableDataset):
        return predictions
    return {
        name: dataset.encoding.in_unit(column) if is_value(name) else column
        for name, column in predictions.items()
    }


def evaluation_data(run: Run) -> DatasetLoader[Any]:
    """The loader of the evaluation data; raises `Error` where there is none that files can be."""
    data = run.test or run.valid
    if isinstance(data, NeighborLoader):
        raise Error(
            f"{run.config.name} is evaluated on sampled graphs, drawn from its own graph and not "
            "read from files: jdl.objectives.predict_all takes its Run.test."
        )
    if not isinstance(data, DatasetLoader):
        raise Error(
            f"{run.config.name} has no evaluation data from a jdl.data.Dataset, whose "
            "transforms the inputs need: add Run(test=...)."
        )
    return data


def joins_rows(trained: TrainedRun) -> bool:
    """Whether rows of a file belong together, as those of a user, so that it cannot be cut."""
    return getattr(_reader(evaluation_data(trained.run)), "joins_rows", False)


def _reader(data: DatasetLoader[Any]) -> ReadsFiles | None:
    """What reads new files as the run's own: its dataset, or the source of that; None: neither."""
    parts = (data.dataset, getattr(data.dataset, "source", None))
    return next((part for part in parts if isinstance(part, ReadsFiles)), None)


def _before_transforms(data: DatasetLoader[Any], spec: Batch) -> Batch:
    """The same columns as files have them: a transform may change a shape."""
    raw = replace(data, transforms=()).spec
    return {name: raw.get(name, column) for name, column in spec.items()}


def _columns_of_predictions(trained: TrainedRun, spec: Batch) -> tuple[str, ...]:
    """The columns that the predictions depend on, besides padding's mask: found by tracing."""
    objective = trained.objective
    assert isinstance(objective, Predicts)
    columns = {name: column for name, column in spec.items() if name != "mask"}
    jaxpr = jax.make_jaxpr(objective.predict)(trained.variables, columns).jaxpr
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars} | set(map(id, jaxpr.outvars))
    variables = jaxpr.invars[-len(columns) :]  # a dict's entries in the order of their names
    needed = [name for name, v in zip(sorted(columns), variables, strict=True) if id(v) in used]
    return tuple(needed) or ("x",)


def readable_row(
    predictions: dict[str, np.ndarray],
    row: int,
    names: tuple[str, ...],
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """A row of the predictions, with class names in place of labels and text in place of tokens."""
    values: dict[str, Any] = {name: column[row].tolist() for name, column in predictions.items()}
    if names and "label" in values:
        values["label"] = _class_names(predictions, row, names)
    if names and "labels" in values:
        labels = values["labels"][: values.pop("length")]
        values["labels"] = sequence_text(labels, names)
    if tokenizer and "tokens" in values:
        values["text"] = decode_until_end(tokenizer, predictions["tokens"][row])
        del values["tokens"]
    return values


def _class_names(predictions: dict[str, np.ndarray], row: int, names: tuple[str, ...]) -> Any:
    """The name of a row's class; of several labels a row, the names of those that it has."""
    label, probability = predictions["label"][row], predictions.get("probability")
    if label.ndim == 0:
        return names[label] if label < len(names) else label.item()
    if probability is not None and label.shape == probability[row].shape:  # 0 or 1 for each class
        return ", ".join(names[k] for k in np.flatnonzero(label))
    return label.tolist()


def to_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV; a list of K numbers takes K columns, one of words has spaces between."""
    flat_rows = [_flatten(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat_rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows)
    return text.getvalue()


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            flat[name] = " ".join(value)
        elif isinstance(value, list):
            flat |= {f"{name}_{k}": v for k, v in enumerate(np.ravel(value).tolist())}
        else:
            flat[name] = value
    return flat


def to_json(rows: list[dict[str, Any]]) -> str:
    """The rows as a JSON list."""
    return json.dumps(rows, indent=1) + "\n"
