"""The log of metrics: metrics.jsonl and TensorBoard, each step once, also after a restart."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import SummaryWriter

from jdl.store.folder import json_line, read_json_lines, write_json_lines
from jdl.store.step_trace import StepTrace
from jdl.store.times import Stopwatch

HOOKS = "hooks"  # the split of what hooks of the user's return


def is_evaluated(split: str) -> bool:
    """Whether a split of the log is one that was evaluated on, such as "valid"."""
    return split not in ("train", HOOKS)


class Sink(Protocol):
    """What else is sent each line of a log. It raises nothing and waits for nothing."""

    def write(self, step: int, split: str, numbers: Mapping[str, float | None]) -> None:
        """Takes a line; None is a number that is not finite."""

    def close(self, finished: bool) -> None:
        """Ends; `finished` where the run came to its end, and was not paused or failed."""


class Log:
    """The log of a run that starts or resumes after `step`; appends to its files and to sinks.

    Lines of later steps, which a killed process wrote after its last checkpoint, are dropped: they
    will be written again. Lines have no timestamps, so that equal trainings have equal files: the
    time is in times.jsonl. `waited` gives the seconds in which the loop has waited for data.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        sinks: Sequence[Sink] = (),
        waited: Callable[[], float] = float,
    ) -> None:
        kept = [line for line in read(folder) if line["step"] <= step]
        self._written = {(line["step"], line["split"]) for line in kept}
        write_json_lines(folder / "metrics.jsonl", kept)
        self._file = (folder / "metrics.jsonl").open("a", buffering=1)
        self._trace, self._stopwatch = StepTrace(folder, step), Stopwatch(folder, step, waited)
        self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self._sinks = sinks

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        """Writes one line, unless there is a line of this step and split already."""
        if (step, split) in self._written:
            return
        self._written.add((step, split))
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        for name, number in finite.items():
            if number is not None:
                self._events.add_scalar(f"{split}/{name}", number, step)
        for sink in self._sinks:
            sink.write(step, split, finite)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows a picture, bytes (H, W) or (H, W, C), in TensorBoard."""
        axes = "HW" if picture.ndim == 2 else "HWC"
        self._events.add_image(name, picture, step, dataformats=axes)

    def trace(self, numbers: dict[str, float]) -> None:
        """Adds the next step's numbers to the step trace."""
        self._trace.write(numbers)
        self._stopwatch.count()

    def flush(self) -> None:
        """Flushes all lines to disk, and writes the time until now."""
        self._stopwatch.write()
        self._flush_files()

    def _flush_files(self) -> None:
        self._trace.flush()
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, finished: bool = True) -> None:
        """Flushes and closes the files, and says to the sinks whether the run is finished."""
        self._flush_files()  # the time after the last evaluation is that of the figures
        self._file.close()
        self._trace.close()
        self._events.close()
        for sink in self._sinks:
            sink.close(finished)


class NoLog(Log):
    """A log that writes nothing, for all processes except the first."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        """Does nothing."""

    def trace(self, numbers: dict[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self, finished: bool = True) -> None:
        """Does nothing."""


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return read_json_lines(folder / "metrics.jsonl", "split", str)


def history(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """The curves of a run by split: columns of its steps, and of each metric at these steps.

    `history(folder)["train"]["loss"]` has the loss of each step in `["train"]["step"]`. None stands
    where a number is not finite, or was not logged.
    """
    columns: dict[str, dict[str, list[Any]]] = {}
    lines = read(folder)
    for split in dict.fromkeys(line["split"] for line in lines):
        of_split = [line for line in lines if line["split"] == split]
        names = dict.fromkeys(name for line in of_split for name in line if name != "split")
        columns[split] = {name: [line.get(name) for line in of_split] for name in names}
    return columns


def parse(line: bytes) -> dict[str, Any] | None:
    """One line of a run's metrics; None where it is damaged."""
    return json_line(line, "split", str)
