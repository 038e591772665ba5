"""Preemption: SIGTERM, SIGHUP and Ctrl-C save the current step and stop.

A second SIGTERM or Ctrl-C stops at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import multihost_utils

from jdl.train.broken_pipe import without_reader
from jdl.types import Error

UNTIL = 0  # stands for --until among signal numbers, which start at 1


class PausedError(Error):
    """The run was stopped by a signal or by --until, and its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        how = f"stopped by {signal.Signals(number).name}" if number else "paused, as --until says,"
        super().__init__(f"{how} after step {step:,}, which is saved; the same command resumes")
        self.code = 128 + number if number else 0


@dataclass
class StopRequests:
    """Requests to end the process: by a signal that has arrived, or by --until."""

    signal_at: Callable[[int], int | None]  # the signal that ends training after a step, if any
    until: int | None
    last: tuple[int, int | None] = (-1, None)  # the newest step, and the answer for it

    def at(self, step: int) -> int | None:
        """The number of the signal after which training ends at this step, or `UNTIL`, or None.

        The answer is cached per step: several processes must ask exactly once to agree.
        """
        if self.last[0] != step:
            number = self.signal_at(step)
            if number is None and step == self.until:
                number = UNTIL
            self.last = (step, number)
        return self.last[1]


@contextmanager
def stop_requests(until: int | None) -> Iterator[StopRequests]:
    """Catches SIGTERM, SIGHUP and Ctrl-C in the main thread, so that training stops between steps.

    SIGHUP comes when a terminal or an SSH connection is lost; where it is ignored already, as under
    nohup, it stays so. With several processes JAX catches SIGTERM, and they agree on the step at
    which all stop.
    """
    if jax.process_count() > 1:
        yield StopRequests(_preempted, until)
        return
    if threading.current_thread() is not threading.main_thread():
        yield StopRequests(lambda step: None, until)
        return
    arrived: list[int] = []

    def note(number: int, frame: Any) -> None:
        arrived.append(number)
        restore()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a lost terminal sends it more than once
        with without_reader():
            os.write(2, b"\njdl: stopping after this step, which is saved; again to stop at once\n")

    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield StopRequests(lambda step: arrived[0] if arrived else None, until)
    finally:
        restore()


def _preempted(step: int) -> int | None:
    return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
