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

from jdl.data import Examples, arrays
from jdl.data.batches import Batches
from jdl.metrics import scalars
from jdl.runs.checkpoints import Checkpoints
from jdl.runs.evaluate import evaluator
from jdl.runs.experiment import rebuild
from jdl.types import Error, Run, State

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


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
    return {name: scalars(evaluator(learner, data)(state)) for name, data in splits.items() if data is not None}


def predict(restored: Restored, inputs: Sequence[Path], size: int = 256) -> list[dict[str, Any]]:
    """What the model says of image files, or of the rows of x in npz files: one dict a row, with where it is from.

    The inputs go through the transforms of the run's evaluation data. `Error` where their shape is not the model's.
    """
    learner = restored.run.learner
    say = learner.objective.predict
    if say is None:
        raise Error(f"{restored.run.config.name} has an objective that predicts nothing.")
    data = restored.run.test or restored.run.valid
    if not isinstance(data, Batches):
        raise Error("The run has no evaluation data, whose transforms the inputs would go through.")
    names, x = read_inputs(inputs, tuple(data.spec["x"].shape[1:]))
    examples = Examples(arrays(x=x).source, np.arange(len(x), dtype=np.int32), data.transforms)
    batches = examples.batches(min(size, len(x)))
    look = jax.jit(lambda state, batch: say(learner.view(state), batch))
    rows: list[dict[str, Any]] = []
    for i in range(len(batches)):
        batch = batches[i]
        columns = jax.tree.map(np.asarray, look(restored.state, batch))
        for row in np.flatnonzero(np.asarray(batch["mask"])).tolist():
            rows.append({"input": names[len(rows)], **_readable(columns, row, restored.run.labels)})
    return rows


def _readable(columns: dict[str, np.ndarray], row: int, labels: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {name: column[row].tolist() for name, column in columns.items()}
    if labels and "label" in found:
        found["label"] = labels[found["label"]]
    return found


def read_inputs(paths: Sequence[Path], shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    """The name of each input and x (N, *shape): from image files, or from the array x of npz files."""
    names: list[str] = []
    parts: list[np.ndarray] = []
    for path in paths:
        if path.suffix == ".npz":
            part = _npz(path)
            names += [f"{path}[{row}]" for row in range(len(part))]
        elif path.suffix.lower() in IMAGES:
            part = _image(path, shape[-1] if len(shape) == 3 else 1)[None]
            names.append(str(path))
        else:
            raise Error(f"{path} is neither an image ({' '.join(IMAGES)}) nor an .npz file.")
        if part.shape[1:] != shape:
            raise Error(f"{path} has the shape {part.shape[1:]} a row, and the model reads {shape}: resize it first.")
        parts.append(part)
    if len({part.dtype for part in parts}) > 1:
        raise Error("The inputs mix bytes and other numbers: predict images and arrays in separate calls.")
    return names, np.concatenate(parts)


def _npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "x" not in file:
                raise Error(f"{path} holds {', '.join(file) or 'nothing'}: the inputs must be its array x.")
            return file["x"]
    except (OSError, ValueError) as error:
        raise Error(f"{path} cannot be read as an npz file: {error}.") from error


def _image(path: Path, channels: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    except (OSError, UnidentifiedImageError, KeyError) as error:
        raise Error(f"{path} cannot be read as an image of {channels} channels: {error}.") from error
    return pixels.reshape(*pixels.shape[:2], channels)


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
