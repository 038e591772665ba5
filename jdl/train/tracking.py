"""Experiment tracking: sends what is logged to trackers, which can never stop or change a run."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, Protocol

from jdl.config import flat_config
from jdl.store.folder import write_atomically

WAITING = 10_000  # lines that wait for a tracker; of one that is slower still, lines are left out
ID = "tracker_id"  # a file of the run's folder
CLOSE_SECONDS = 30.0  # for a tracker to send what waits, at the end of a training

Line = tuple[int, str, Mapping[str, float | None]]  # step, split, metrics; None: not finite


class Tracker(Protocol):
    """Experiment tracking: where the lines of a run's log are sent, beside its folder."""

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Sends the finite metrics of one line."""

    def close(self, finished: bool) -> None:
        """Ends, once all is sent; `finished` where the run is, and was not paused or failed."""


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked, as a tracker may show it."""

    folder: Path
    record: Mapping[str, Any]
    start: int  # the step after which this training goes on

    @property
    def name(self) -> str:
        """The run's name in a tracker: name/digest/seed<k>, the same after a resume."""
        config = self.record["config"]
        return f"{config['name']}/{self.record['digest']}/seed{self.record['seed']}"

    @property
    def id(self) -> str:
        """What tells this training from others of the same config and seed; kept in its folder.

        It is the same after a resume.
        """
        path = self.folder / ID
        if not path.is_file():
            write_atomically(path, secrets.token_hex(8).encode())
        return path.read_text()


@dataclass
class Background:
    """A tracker in a thread of its own: training waits for none, and an error is one warning.

    After its first error a tracker gets nothing more.
    """

    name: str
    begin: Callable[[], Tracker]
    _lines: Queue[Line | bool] = field(default_factory=lambda: Queue(WAITING))
    _problem: str = ""
    _has_warned: bool = False

    def __post_init__(self) -> None:
        self._thread = Thread(target=self._send, name=f"jdl-{self.name}", daemon=True)
        self._thread.start()

    def write(self, step: int, split: str, numbers: Mapping[str, float | None]) -> None:
        """Hands a line to the thread."""
        self._check()
        if not self._problem:
            self._put((step, split, dict(numbers)))

    def close(self, finished: bool) -> None:
        """Lets the tracker end, for half a minute at most."""
        self._put(finished)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive() and not self._problem:
            self._problem = f"it has not ended within {CLOSE_SECONDS:.0f} s"
        self._check()

    def _put(self, line: Line | bool) -> None:
        try:
            self._lines.put_nowait(line)
        except Full:
            self._problem = self._problem or f"it is too slow, {WAITING:,} lines wait for it"

    def _check(self) -> None:
        """Warns once, in the thread of the training."""
        if self._problem and not self._has_warned:
            self._has_warned = True
            with suppress(Warning):  # where warnings are errors, this one stops no run either
                warnings.warn(
                    f"The tracker {self.name} gets nothing more: {self._problem}. The run goes on, "
                    "and its folder has all metrics.",
                    stacklevel=3,
                )

    def _send(self) -> None:
        """What the thread does: sends line by line."""
        try:
            tracker = self.begin()
            while not isinstance(line := self._lines.get(), bool):
                step, split, numbers = line
                tracker.write(step, split, {k: v for k, v in numbers.items() if v is not None})
            tracker.close(line)
        except (Exception, SystemExit) as error:  # of a library, whatever it raises
            self._problem = f"{type(error).__name__}: {error}".rstrip(".")


def hyperparameters(tracked: Tracked) -> dict[str, bool | int | float | str]:
    """The config of a run as trackers take it: numbers, booleans and text."""
    flat = flat_config(tracked.record["config"])
    return {k: v if isinstance(v, bool | int | float | str) else repr(v) for k, v in flat.items()}
