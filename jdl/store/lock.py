"""The lock of a run's folder: one writer at a time, of all hosts that share the disk."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import IO

from jdl.types import Error

HEARTBEAT_SECONDS = 15.0  # how often a holder touches its lock
DEAD_SECONDS = 60.0  # the holder of a lock that nobody touched for this long is dead


@contextmanager
def hold_lock(folder: Path) -> Iterator[list[str]]:
    """Locks the folder for this process; yields a note where the last holder did not end in order.

    The kernel keeps processes of one host apart. It may not know of other hosts that share the
    disk: their holders touch the lock's file as a heartbeat. Raises `Error` that names the holder.
    """
    path = folder / "lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(lock) or "another process"
            raise Error(f"{folder} is being trained already, by {holder}.") from None
        holder, age = _holder(lock), _age(path)
        if _on_another_host(holder) and age < DEAD_SECONDS:
            raise Error(
                f"{folder} is being trained already, by {holder}, which was there {age:.0f} s ago: "
                f"if that process is dead, start again in {DEAD_SECONDS:.0f} s."
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        ended = Event()
        heart = Thread(target=_beat, args=(path, ended), name="jdl-lock", daemon=True)
        heart.start()
        try:
            yield [f"It was left by {holder}, which did not end in order"] if holder else []
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
    except OSError:
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
        os.utime(path)
