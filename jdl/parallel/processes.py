"""Several processes that train one run, on JAX's own distributed runtime.

All of them compute; the first alone writes logs. They meet at the same points in the same order, or
not at all.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jdl.config import Options
from jdl.types import Error

CONNECT_SECONDS = 60  # how long a process waits for the first one
PATIENCE_SECONDS = 15  # after which it says that it waits
HEARTBEAT_SECONDS = 20  # a process that was not heard of for so long is lost, and the others end


def start(options: Options) -> None:
    """Joins the other processes of this run, where the options or the cluster name any; else does nothing.

    Raises `Error` for options that do not go together, and where the first process cannot be
    reached.
    """
    address = _address(options.coordinator, options.processes, options.process)
    if not address and not in_cluster(os.environ):
        return
    if options.coordinator and options.process:
        _await(options.coordinator)
    waiting = Timer(
        PATIENCE_SECONDS,
        print,
        ["jdl: waiting for the other processes of this run"],
        {"file": sys.stderr},
    )
    waiting.start()
    try:
        jax.distributed.initialize(
            **address,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise Error(
            f"The processes of this run could not be joined: {str(error).partition(chr(10))[0]}"
        ) from error
    finally:
        waiting.cancel()


def _await(coordinator: str) -> None:
    """Returns when the first process can be reached: JAX itself would abort, without a word of ours."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Error(
                    f"The first process could not be reached at {coordinator} in {CONNECT_SECONDS} s ({error}): start "
                    "it with --process 0 on that host, or correct --coordinator."
                ) from None
            time.sleep(0.2)


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a cluster started this process as one of several: SLURM, Open MPI, GKE or a TPU pod."""
    if "SLURM_STEP_NODELIST" in environment:
        return int(environment.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_SIZE"]) > 1
    on_tpu = find_spec("libtpu") is not None and any(
        Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0")
    )
    return on_tpu and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu")


def _address(coordinator: str | None, processes: int | None, process: int | None) -> dict[str, Any]:
    """What `jax.distributed.initialize` is to be given: nothing, where nothing is named."""
    if coordinator is None and processes is None and process is None:
        return {}
    if coordinator is None or processes is None or process is None:
        raise Error(
            "A run of several processes needs all of --coordinator HOST:PORT --processes N --process I."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise Error(f"--coordinator is HOST:PORT of the first process, and {coordinator!r} is not.")
    if not 0 <= process < processes:
        raise Error(
            f"--process {process} is none of --processes {processes}: number them from 0 to {processes - 1}."
        )
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise Error(f"The host of --coordinator {coordinator} is not known: {error}.") from error
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def gathered(text: str) -> list[str]:
    """The text that each process gives, by process."""
    if not several():
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([len(data)], np.int32))).ravel()
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def together(action: Callable[[], Any]) -> None:
    """Does something in every process; where it raises `Error` in any, all raise the first."""
    message = ""
    try:
        action()
    except Error as error:
        message = str(error) or type(error).__name__
        if not several():
            raise
    told = next(filter(None, gathered(message)), "")
    if told:
        raise Error(told)


def leave(code: int) -> None:
    """Ends this process at once where there are others, which would be waited for."""
    if several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
