"""A sheet of spectrograms: what was recorded, and what is said (text to speech)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.data.look import sequence_text
from jdl.layers import LogMel
from jdl.objectives.predict import map_rows
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Batch, Predicts, Variables

ROWS = 5
BANDS, QUIET = 64, 60  # of the spectrograms; decibels below the loudest, where colors end
PREDICTED = frozenset({"waveform", "length", "rate"})


def is_speech(objective: Any, variables: Variables, spec: Batch) -> bool:
    """Whether the predictions of an objective are waveforms of what is said in texts y."""
    if not isinstance(objective, Predicts) or not {"x", "y"} <= spec.keys():
        return False
    x, y = spec["x"], spec["y"]
    if (x.ndim, y.ndim) != (2, 2) or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    return jax.eval_shape(objective.predict, variables, spec).keys() >= PREDICTED


def draw_speech(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/speech.png: the first texts of the evaluation data, recorded and synthesized.

    Spectrograms on the mel scale; both of a row have the same colors and the same length. For a run
    of anything but text to speech it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(objective, Predicts):
        return []
    spec = data.spec
    if not run.labels or not is_speech(objective, variables, spec):
        return []

    def say(variables: Variables, batch: Batch) -> Batch:
        """The predictions, whose length is that of the waveform, and the size of x."""
        size = batch.get("length", jnp.full(len(batch["x"]), batch["x"].shape[1]))
        return {**objective.predict(variables, batch), "size": size}

    columns = [name for name in ("x", "y", "y_length") if name in spec]
    rows = map_rows(say, variables, replace(data, size=ROWS), columns, limit=ROWS)
    path = folder / "figures" / "speech.png"
    if processes.is_first():
        _draw(rows, run.labels, path)
    return [path]


def _draw(rows: dict[str, np.ndarray], labels: tuple[str, ...], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    count, rate = len(rows["x"]), int(rows["rate"][0])
    figure = Figure(figsize=(9, 1.6 * count + 0.4), layout="constrained")
    places = figure.subplots(count, 2, squeeze=False, sharex=True, sharey=True)
    sides = [("recorded", rows["x"], rows["size"])]
    sides.append(("synthesized", rows["waveform"], rows["length"]))
    images = [_spectrograms(x, rate) for _, x, _ in sides]
    longest = max(int(size[:count].max()) for _, _, size in sides) / rate
    for n in range(count):
        y = rows["y"][n]
        y = y[: rows["y_length"][n]] if "y_length" in rows else y[y != 0]
        loudest = images[0][n].max()
        for axes, (side, x, size), image in zip(places[n], sides, images, strict=True):
            seconds = x.shape[1] / rate
            axes.imshow(
                image[n].T,
                cmap="magma",
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, BANDS),
                vmin=loudest - QUIET,
                vmax=loudest,
            )
            axes.axvline(size[n] / rate, color="white", lw=0.8, ls="--")
            axes.set(xlim=(0, longest), yticks=[])
            text = sequence_text(y.tolist(), labels).replace("$", r"\$")
            axes.set_title(f"{text}, {side}" if n == 0 else text, loc="left", fontsize=9)
    for axes in places[-1]:
        axes.set_xlabel("seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _spectrograms(x: np.ndarray, rate: int) -> np.ndarray:
    """Log-mel spectrograms (N, frames, BANDS) in decibels of waveforms (N, T)."""
    hop = max(1, rate // 100)
    log_mel = LogMel(rate, max(4 * hop, 4 * BANDS), hop, BANDS, decibels=True)
    return np.asarray(jax.jit(log_mel.apply)({}, x))
