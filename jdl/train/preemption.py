"""Preemption: SIGTERM and Ctrl-C let the step end and be saved; a second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from jdl.types import Error

Asked = Callable[
    [int], int | None
]  # from a step to the signal after which the run is to stop there


class PausedError(Error):
    """The run was asked to stop, by a signal or by --until, and has saved where it is."""

    def __init__(self, number: int, step: int) -> None:
        how = f"stopped by {signal.Signals(number).name}" if number else "paused, as --until says,"
        super().__init__(f"{how} after step {step:,}, which is saved; the same command goes on")
        self.code = 128 + number if number else 0


@contextmanager
def noticed() -> Iterator[Asked]:
    """Takes note of SIGTERM and Ctrl-C instead of acting on them, in the main thread of a process.

    Of several processes JAX takes note of SIGTERM, and they agree on the step after which all of them stop.
    """
    if jax.process_count() > 1:
        yield (
            lambda step: (
                signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
            )
        )
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: None
        return
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        restore()
        os.write(2, b"\njdl: ends this step and saves it; once more stops at once\n")

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda step: came[0] if came else None
    finally:
        restore()
