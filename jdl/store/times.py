"""The time that a run took, of all processes that trained it: times.jsonl, a line for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdl.store.folder import json_line, write_json_lines

FILE = "times.jsonl"


@dataclass(frozen=True)
class Times:
    """The time of some steps: of those that were trained twice, after a kill, both times."""

    seconds: float
    data_seconds: float  # the part of `seconds` in which the loop waited for data
    steps: int


class Stopwatch:
    """Measures the time of this process, and writes it beside those before it.

    `waited` gives the seconds in which the loop has waited for data.
    """

    def __init__(self, folder: Path, start: int, waited: Callable[[], float]) -> None:
        self._path, self._before = folder / FILE, _lines(folder)
        self._start, self._waited, self._steps = start, waited, 0
        self._began = time.perf_counter()

    def count(self) -> None:
        """Counts a step."""
        self._steps += 1

    def write(self) -> None:
        """Writes the time until now; nothing before the first step."""
        if self._steps:
            line = {
                "step": self._start + self._steps,
                "steps": self._steps,
                "seconds": time.perf_counter() - self._began,
                "data_seconds": self._waited(),
            }
            write_json_lines(self._path, [*self._before, line])


def recorded_times(folder: Path) -> Times | None:
    """The time that a run took so far; None where it is not recorded."""
    lines = _lines(folder)
    if not lines:
        return None
    seconds, waited, steps = (
        sum(line[name] for line in lines) for name in ("seconds", "data_seconds", "steps")
    )
    return Times(seconds, waited, steps)


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of times.jsonl, without damaged ones: training goes on without them."""
    found: list[bytes] = []
    with suppress(OSError):
        found = (folder / FILE).read_bytes().splitlines()
    lines = (json_line(line, "seconds", float) for line in found)
    return [
        line
        for line in lines
        if line
        and isinstance(line.get("data_seconds"), float)
        and isinstance(line.get("steps"), int)
    ]
