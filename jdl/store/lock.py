"""The lock of a run's folder: one writer at a time, among all hosts that share the disk."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import IO

from jdl.types import Error

HEARTBEAT_SECONDS = 15.0  # how often a holder touches its lock
READER_SECONDS = 1.0  # how long to wait for a reader: `is_locked` holds a lock for a moment
DEAD_SECONDS = 60.0  # a holder on another host without a heartbeat for this long counts as dead


class LockedError(Error):
    """The folder is locked by another process."""


@contextmanager
def hold_lock(folder: Path, doing: str = "trained") -> Iterator[list[str]]:
    """Locks the folder for this process; yields a note if the last holder was killed.

    Processes of one host are excluded by `flock`, which may not work across hosts that share the
    disk: therefore a holder also touches the lock file as a heartbeat. Raises `LockedError`, with
    the holder's name and what it is doing, where the folder is locked. A holder may delete the
    folder.
    """
    path = folder / "lock"
    with path.open("a+") as lock:
        if not _acquire(lock):
            holder = _holder(lock) or "another process"
            raise LockedError(
                f"{folder} is being {doing} already, by {holder}: wait for it, or stop it."
            )
        holder, age = _holder(lock), _age(path)
        if _on_another_host(holder) and age < DEAD_SECONDS:
            raise LockedError(
                f"{folder} is being {doing} already, by {holder}, whose last heartbeat was "
                f"{age:.0f} s ago: if that process is dead, try again in {DEAD_SECONDS:.0f} s."
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        ended = Event()
        heart = Thread(target=_beat, args=(path, ended), name="jdl-lock", daemon=True)
        heart.start()
        try:
            yield [f"The last training of this run, by {holder}, was killed"] if holder else []
        finally:
            ended.set()
            heart.join()
            lock.truncate(0)


def is_locked(folder: Path) -> bool:
    """Whether a process is training in the folder now."""
    path = folder / "lock"
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _on_another_host(_holder(lock)) and _age(path) < DEAD_SECONDS
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def _acquire(lock: IO[str]) -> bool:
    """Locks the file for this process alone; False if another holds it for longer than readers."""
    deadline = time.monotonic() + READER_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read(200).strip()


def _on_another_host(holder: str) -> bool:
    return bool(holder) and not holder.endswith(f" on {socket.gethostname()}")


def _age(path: Path) -> float:
    """Seconds since the file was touched; the clocks of hosts that share a disk should agree."""
    return max(0.0, time.time() - path.stat().st_mtime)


def _beat(path: Path, ended: Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(FileNotFoundError):
            os.utime(path)
