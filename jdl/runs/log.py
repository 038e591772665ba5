"""The log: metrics.jsonl, each step exactly once whatever happens, and the same for TensorBoard."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from jdl.types import Error


class Log:
    """Appends to the metrics of a run that begins, or goes on, after `step`.

    Lines of later steps, which a killed process wrote after its last checkpoint, are dropped: they will be written
    again. No line holds a time, so that equal trainings have equal files.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] <= step]
        self._written = {(line["step"], line["split"]) for line in kept}
        beside = folder / ".metrics.jsonl"
        beside.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        beside.rename(self.path)
        self._file = self.path.open("a", buffering=1)
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

    def flush(self) -> None:
        """Puts all lines on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the log."""
        self.flush()
        self._file.close()
        self._events.close()


class Silent:
    """The log of a process that writes none."""

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        """Ignores it."""

    def flush(self) -> None:
        """Has nothing to put anywhere."""

    def close(self) -> None:
        """Ends nothing."""


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut off by a kill is left out."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            _ = (entry["step"] <= 0, entry["split"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise Error(f"{path}, line {number}, is not a line of metrics: {line[:80]!r}. Is the disk whole?") from None
        found.append(entry)
    return found
