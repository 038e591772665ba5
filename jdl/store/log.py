"""The log: metrics.jsonl, each step exactly once whatever happens, and the same for TensorBoard."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from jdl.store.step_trace import Trace
from jdl.store.folder import read_lines, write_lines


class Log:
    """Appends to the metrics of a run that begins, or goes on, after `step`.

    Lines of later steps, which a killed process wrote after its last checkpoint, are dropped: they will be written
    again. No line holds a time, so that equal trainings have equal files.
    """

    def __init__(self, folder: Path, step: int) -> None:
        kept = [line for line in read(folder) if line["step"] <= step]
        self._written = {(line["step"], line["split"]) for line in kept}
        write_lines(folder / "metrics.jsonl", kept)
        self._file = (folder / "metrics.jsonl").open("a", buffering=1)
        self._trace = Trace(folder, step)
        self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        """One line; nothing where the line of this step and split is there already."""
        if (step, split) in self._written:
            return
        self._written.add((step, split))
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        for name, number in finite.items():
            if number is not None:
                self._events.add_scalar(f"{split}/{name}", number, step)

    def trace(self, numbers: dict[str, float]) -> None:
        """Keeps the next step's numbers as they are, for those who compare runs."""
        self._trace.write(numbers)

    def flush(self) -> None:
        """Puts all lines on the disk."""
        self._trace.flush()
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the log."""
        self.flush()
        self._file.close()
        self._trace.close()
        self._events.close()


class Silent:
    """The log of a process that writes none."""

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        """Ignores it."""

    def trace(self, numbers: dict[str, float]) -> None:
        """Ignores them."""

    def flush(self) -> None:
        """Has nothing to put anywhere."""

    def close(self) -> None:
        """Ends nothing."""


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return read_lines(folder / "metrics.jsonl", "split", str)
