"""A sheet of lines of text, or of sounds, with what is read or heard (OCR, speech recognition)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.look import sequence_text
from jdl.figures.rows import is_image
from jdl.layers import LogMel
from jdl.objectives.predict import map_rows
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Array, Batch, Predicts, Variables

ROWS, COLUMNS = 12, 2
FRAMES, BANDS = 160, 16  # of a spectrogram, its padding included
RATE = 8_000  # samples a second: the figure is the same at any other, but for the mel scale


def draw_readings(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/readings.png: the first rows of the evaluation data, and what is read there.

    In red are wrong readings, with the right one. Rows are images of different `width`, or
    waveforms of different `length`, which are drawn as spectrograms, with sequences of labels; for
    any other run it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    spec = data.spec
    size = "width" if "width" in spec else "length"
    if not {"x", "y", size} <= spec.keys() or not run.labels or not _can_be_drawn(spec["x"], size):
        return []
    if not {"labels", "length"} <= jax.eval_shape(objective.predict, variables, spec).keys():
        return []

    def read(variables: Variables, batch: Batch) -> Batch:
        """The predictions, whose length is that of the labels, and the size of x."""
        return {**objective.predict(variables, batch), "size": batch[size]}

    columns = [name for name in ("x", "y", "y_length") if name in spec]
    lines = map_rows(read, variables, data, columns, limit=ROWS * COLUMNS)
    path = folder / "figures" / "readings.png"
    if processes.is_first():
        _draw(lines, run.labels, path)
    return [path]


def _can_be_drawn(x: Array, size: str) -> bool:
    is_waveform = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.floating)
    return is_image(x) if size == "width" else is_waveform


def _draw(lines: dict[str, np.ndarray], labels: tuple[str, ...], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(9.6, 0.65 * ROWS), layout="constrained")
    places = figure.subplots(ROWS, COLUMNS).ravel()
    sounds = lines["x"].ndim == 2
    x = _spectrograms(lines["x"]) if sounds else lines["x"]
    for n, axes in enumerate(places):
        axes.set_axis_off()
        if n >= len(lines["x"]):
            continue
        y = lines["y"][n]
        y = y[: lines["y_length"][n]] if "y_length" in lines else y[y != 0]
        right = sequence_text(y.tolist(), labels)
        read = sequence_text(lines["labels"][n][: lines["length"][n]].tolist(), labels)
        if sounds:
            _draw_spectrogram(axes, x[n], lines["size"][n] / lines["x"].shape[1])
        else:
            _draw_image(axes, x[n], lines["size"][n])
        wrong = read != right
        title = f"{read}  (is {right})" if wrong else read
        axes.set_title(title, loc="left", fontsize=9, color="tab:red" if wrong else "black")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _draw_image(axes: Any, x: np.ndarray, width: int) -> None:
    image = x[:, :width]
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
    axes.set_xlim(0, x.shape[1])


def _draw_spectrogram(axes: Any, x: np.ndarray, share: float) -> None:
    """The share of a spectrogram (frames, bands) that is no padding: low pitches at the bottom.

    The colors are from the loudest to 60 decibels below it.
    """
    image = x[: max(1, round(share * len(x)))].T
    loudest = image.max()
    axes.imshow(image, cmap="magma", origin="lower", aspect="auto", vmin=loudest - 60, vmax=loudest)
    axes.set_xlim(0, len(x))


def _spectrograms(x: np.ndarray) -> np.ndarray:
    """Log-mel spectrograms (N, frames, bands) in decibels of waveforms (N, T)."""
    frame = max(4 * BANDS, x.shape[1] // FRAMES)  # of fewer samples, bands would be empty
    log_mel = LogMel(RATE, n_fft=2 * frame, hop=frame, n_mels=BANDS, decibels=True)
    return np.asarray(jax.jit(log_mel.apply)({}, x))
