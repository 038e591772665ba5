"""Broken pipes: output that nobody reads any more, as of `jdl runs | head` or a lost terminal."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CODE = 141  # 128 and SIGPIPE, as of Unix tools


def show(text: str) -> None:
    """Prints a line; where nobody reads it, the program goes on without output."""
    with without_reader():
        print(text, flush=True)


@contextmanager
def without_reader() -> Iterator[None]:
    """Within it, writing to a pipe or terminal that nobody reads any more is no error."""
    try:
        yield
    except OSError:
        if not discard_output():
            raise


@contextmanager
def exit_at_broken_pipe() -> Iterator[None]:
    """Exits where nobody reads the output any more, without a word."""
    try:
        try:
            yield
        finally:
            if sys.stdout:  # None where it is closed from the beginning
                sys.stdout.flush()
    except OSError:
        if not discard_output():
            raise
        raise SystemExit(CODE) from None


def discard_output() -> bool:
    """Discards standard output and error from now on, if nobody reads them; whether it is so."""
    closed = [number for number in (1, 2) if _is_closed(number)]
    for number in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(closed)


def _is_closed(number: int) -> bool:
    poll = select.poll()
    poll.register(number, 0)  # errors are always told
    return bool(poll.poll(0))
