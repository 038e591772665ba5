"""The progress display: a live bar on a terminal, plain lines in a pipe.

Where the pipe or the terminal is closed, the training goes on without: all is in the run's folder.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jdl.train.broken_pipe import show, without_reader

LINE_SECONDS = 10.0  # least time between two progress lines in a pipe
BAR_SECONDS = 0.1  # least time between two updates of the bar: they must not slow training down


class Display:
    """A display of a training's progress; this one shows nothing."""

    def step(self, step: int, loss: float | None) -> None:
        """Shows that a step is done, with the newest logged loss."""

    def note(self, text: str) -> None:
        """Shows a line of text."""

    def close(self) -> None:
        """Removes the display, and restores the terminal."""


class _Pace:
    """The speed of a training, and an estimate of the time left.

    Measured from the first call of `text`, which shows neither: so compilation does not count.
    """

    def __init__(self, total: int, rows: int) -> None:
        self._total, self._rows = total, rows
        self._first: tuple[int, float] | None = None

    def text(self, step: int, loss: float | None) -> str:
        now = time.perf_counter()
        start, began = self._first = self._first or (step, now)
        seconds, done = now - began, step - start
        shown = "" if loss is None else f"loss {loss:<8.4g} "
        if not done:
            return shown
        left = round(seconds / done * (self._total - step))
        speed = self._rows * done / seconds
        return f"{shown}{speed:>9,.0f} examples/s  {left // 60}:{left % 60:02} left"


class Bar(Display):
    """A live bar on a terminal; notes scroll above it."""

    def __init__(self, start: int, total: int, rows: int) -> None:
        columns = (
            BarColumn(),
            TextColumn("step {task.completed:,}/{task.total:,}"),
            TextColumn("{task.description}"),
        )
        self._pace = _Pace(total, rows)
        self._progress = Progress(*columns, console=Console(), refresh_per_second=5)
        self._task = self._progress.add_task("compiling ...", total=total, completed=start)
        self._shown = 0.0
        self._progress.start()

    def step(self, step: int, loss: float | None) -> None:
        """Moves the bar."""
        if (now := time.perf_counter()) - self._shown > BAR_SECONDS:
            self._shown = now
            text = self._pace.text(step, loss)
            self._progress.update(self._task, completed=step, description=text)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        with without_reader():
            self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Removes the bar."""
        with without_reader():
            self._progress.stop()


class Lines(Display):
    """Lines of text, for pipes and files."""

    def __init__(self, start: int, total: int, rows: int) -> None:
        self._pace, self._total = _Pace(total, rows), total
        self._shown = time.perf_counter()

    def step(self, step: int, loss: float | None) -> None:
        """Prints a line, at most one every `LINE_SECONDS`."""
        if (now := time.perf_counter()) - self._shown > LINE_SECONDS:
            self._shown = now
            self.note(f"step {step:,}/{self._total:,}  {self._pace.text(step, loss)}")

    def note(self, text: str) -> None:
        """Prints a line."""
        show(text)


def progress_display(start: int, total: int, rows: int, quiet: bool) -> Display:
    """A bar on a terminal, lines in a pipe, nothing if `quiet`; a step has `rows` examples."""
    if quiet:
        return Display()
    return (Bar if sys.stdout.isatty() else Lines)(start, total, rows)
