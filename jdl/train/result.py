"""The result of `fit`, and summary.json, which ends a run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdl.metrics import scalars
from jdl.numbers import number_text
from jdl.store import log
from jdl.store.folder import read_json, write_json
from jdl.store.times import recorded_times
from jdl.types import Mean, Metrics, State

Numbers = dict[str, dict[str, float]]  # by split and name


@dataclass(frozen=True, repr=False)
class Result:
    """The result of `fit`: the final state, its metrics by split, figures, and times."""

    state: State
    metrics: dict[str, Metrics]
    scores: dict[str, float]  # what `Run.score` gives for the final variables
    figures: list[Path]
    folder: Path
    steps: int  # that this process trained
    seconds: float
    data_seconds: float  # the part of `seconds` in which the loop waited for data
    best_step: int | None = None  # of the checkpoint that is best by `Run.best`; None: none is

    @property
    def history(self) -> dict[str, dict[str, list[Any]]]:
        """The curves of the run; see `jdl.store.log.history`."""
        return log.history(self.folder)

    def __repr__(self) -> str:
        return f"<Result of {result_line(self)}>"


def recorded_result(folder: Path, state: State, best_step: int | None) -> Result:
    """The result of a finished run as it was recorded: nothing is computed.

    Its metrics are the numbers of its log, each the `Mean` of one value: what is no number, such as
    a confusion matrix, is not among them. Its scores are those of summary.json. A note says where
    the run was never evaluated.
    """
    step = int(state.step)
    one: Any = np.float64(1)
    metrics: dict[str, Metrics] = {
        line["split"]: {
            name: Mean((np.nan if value is None else value) * one, one)
            for name, value in line.items()
            if name not in ("step", "split")
        }
        for line in log.read(folder)
        if line["step"] == step and log.is_evaluated(line["split"])
    }
    if not metrics:
        print(
            f"jdl: {folder} was never evaluated: `jdl evaluate` does it with the run's code.",
            file=sys.stderr,
        )
    return Result(state, metrics, _scores(folder), [], folder, 0, 0.0, 0.0, best_step)


def _scores(folder: Path) -> dict[str, float]:
    path = folder / "summary.json"
    metrics = read_json(path)["metrics"] if path.exists() else {}
    return metrics.get("score", {})


def write_summary(result: Result) -> None:
    """Writes summary.json, which ends a run. Its time is that of all processes that trained it."""
    times = recorded_times(result.folder) or result
    summary = {
        "step": int(result.state.step),
        "metrics": numbers(result),
        "seconds": times.seconds,
        "data_seconds": times.data_seconds,
    }
    write_json(result.folder / "summary.json", summary)


def result_line(result: Result) -> str:
    """The result in one line, for --quiet: the final metrics that are scalars, and the folder."""
    parts = [f"step {int(result.state.step):,}"]
    for split, values in numbers(result).items():
        texts = [
            f"{name} {number_text(value)}" for name, value in values.items() if "/" not in name
        ]
        parts.append(f"{split} {' '.join(texts)}")
    return "  ".join([*parts, str(result.folder)])


def numbers(result: Result) -> Numbers:
    """The metrics that are numbers, and the scores, by split and name."""
    found = {split: scalars(metrics) for split, metrics in result.metrics.items()}
    return found | ({"score": result.scores} if result.scores else {})
