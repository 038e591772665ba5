"""Several processes of this machine that train one run: what a cluster's own launcher does on many."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TRAIN = "import sys; from jdl.cli.main import main; sys.argv[0] = 'jdl'; main()"
GRACE_SECONDS = 60  # in which processes that were left alone end by themselves


def launch(count: int, script: Path, flags: list[str]) -> int:
    """Trains the experiment in `count` processes, and gives the exit code: that of the first one that failed.

    Where one fails or is killed the others end too, by themselves or else by this process. SIGTERM goes to all of them.
    """
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count)]
    command = [sys.executable, "-c", TRAIN, "train", str(script), *flags, *where]
    running = {n: subprocess.Popen([*command, "--process", str(n)]) for n in range(count)}

    def pass_on(number: int, frame: Any) -> None:
        for process in running.values():
            process.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    code, deadline = 0, None
    try:
        while running:
            codes = [(process.poll(), n) for n, process in running.items()]
            for found, n in sorted(
                (found, n) for found, n in codes if found is not None
            ):  # the killed ones first
                del running[n]
                if found and not code:
                    code, deadline = found, time.monotonic() + GRACE_SECONDS
                    _tell(n, count, found)
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(0.1)
    except KeyboardInterrupt:
        code = 130
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(
            process.poll() is None for process in running.values()
        ):
            time.sleep(0.1)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return code if code >= 0 else 128 - code


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tell(n: int, count: int, code: int) -> None:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    print(
        f"jdl: process {n} of {count} {how}; the others end too. What was saved is whole: the same command goes on "
        "from the newest checkpoint.",
        file=sys.stderr,
    )
