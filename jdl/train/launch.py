"""A launcher: starts several processes on this machine that train one run together."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GRACE_SECONDS = 60  # after a failure, for the other processes to end by themselves
POLL_SECONDS = 0.1


def launch(count: int, script: Path, flags: list[str]) -> int:
    """Trains the experiment in `count` processes; returns the exit code of the first that failed.

    Where one fails or is killed, the others end by themselves, or are killed after 60 s. SIGTERM is
    forwarded to all of them.
    """
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count)]
    command = [sys.executable, "-m", "jdl", "train", str(script), *flags, *where]
    running = {n: subprocess.Popen([*command, "--process", str(n)]) for n in range(count)}

    def pass_on(number: int, frame: Any) -> None:
        for process in running.values():
            process.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    try:
        code = _wait(running, count)
    except KeyboardInterrupt:
        code, deadline = 130, time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(p.poll() is None for p in running.values()):
            time.sleep(POLL_SECONDS)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return code if code >= 0 else 128 - code


def _wait(running: dict[int, subprocess.Popen[bytes]], count: int) -> int:
    """Waits for all to end, or 60 s after the first failure; returns the first failure's code."""
    failure, deadline = 0, float("inf")
    while running and time.monotonic() < deadline:
        codes = {n: process.poll() for n, process in running.items()}
        ended = sorted((code, n) for n, code in codes.items() if code is not None)
        for code, n in ended:  # killed processes first: their codes are negative
            del running[n]
            if code and not failure:
                failure, deadline = code, time.monotonic() + GRACE_SECONDS
                _report(n, count, code)
        time.sleep(POLL_SECONDS)
    return failure


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _report(n: int, count: int, code: int) -> None:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    print(
        f"jdl: process {n} of {count} {how}; the others end too. The same command resumes "
        "from the newest checkpoint.",
        file=sys.stderr,
    )
