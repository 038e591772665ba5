"""What a person sees of a training: a live bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0  # a pipe gets a line that often at most, and one an evaluation


class Display(Protocol):
    """Something that is told of each settled step."""

    def step(self, step: int, loss: float | None) -> None:
        """Is told of a step, and of the loss that was logged last."""

    def note(self, text: str) -> None:
        """Shows a line of text."""

    def close(self) -> None:
        """Leaves the screen as it should be."""


class Quiet:
    """Shows nothing."""

    def step(self, step: int, loss: float | None) -> None:
        """Ignores it."""

    def note(self, text: str) -> None:
        """Ignores it."""

    def close(self) -> None:
        """Ends nothing."""


class _Pace:
    """Steps behind, and how long the rest takes at the pace so far."""

    def __init__(self, start: int, total: int, rows: int) -> None:
        self._start, self._total, self._rows = start, total, rows
        self._began = time.perf_counter()

    def text(self, step: int, loss: float | None) -> str:
        seconds = time.perf_counter() - self._began
        done = step - self._start
        shown = "" if loss is None else f"loss {loss:<8.4g} "
        if not done:
            return shown
        left = round(seconds / done * (self._total - step))
        return f"{shown}{self._rows * done / seconds:>9,.0f} examples/s  {left // 60}:{left % 60:02} left"


class Bar:
    """A live line on a terminal; notes scroll above it."""

    def __init__(self, start: int, total: int, rows: int) -> None:
        columns = (
            BarColumn(),
            TextColumn("step {task.completed:,}/{task.total:,}"),
            TextColumn("{task.description}"),
        )
        self._pace = _Pace(start, total, rows)
        self._progress = Progress(*columns, console=Console(), refresh_per_second=5)
        self._task = self._progress.add_task("compiling ...", total=total, completed=start)
        self._shown = 0.0
        self._progress.start()

    def step(self, step: int, loss: float | None) -> None:
        """Moves the bar, at most ten times a second: drawing must not slow the training."""
        if (now := time.perf_counter()) - self._shown > 0.1:
            self._shown = now
            self._progress.update(
                self._task, completed=step, description=self._pace.text(step, loss)
            )

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()


class Lines:
    """Lines of text, for pipes and files."""

    def __init__(self, start: int, total: int, rows: int) -> None:
        self._pace, self._total = _Pace(start, total, rows), total
        self._shown = time.perf_counter()

    def step(self, step: int, loss: float | None) -> None:
        """Prints a line where the last one is long ago."""
        if (now := time.perf_counter()) - self._shown > PLAIN_SECONDS:
            self._shown = now
            self.note(f"step {step:,}/{self._total:,}  {self._pace.text(step, loss)}")

    def note(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def close(self) -> None:
        """Ends nothing."""


def display(start: int, total: int, rows: int, quiet: bool) -> Display:
    """The display that suits where the output goes; a step has `rows` examples."""
    if quiet:
        return Quiet()
    return (Bar if sys.stdout.isatty() else Lines)(start, total, rows)
