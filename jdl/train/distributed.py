"""Distributed training: joining the processes of one run, and ending one of them."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

import jax

from jdl.config import Options
from jdl.parallel.processes import gather, several
from jdl.types import Error

CONNECT_SECONDS = 60  # how long a process waits for the first one
NOTICE_SECONDS = 15  # then it prints that it waits
HEARTBEAT_SECONDS = 20  # a process without a heartbeat for this long counts as lost


def join(options: Options) -> None:
    """Joins the other processes of this run, if the options or a cluster's launcher name any.

    Raises `Error` for inconsistent options, and where the first process cannot be reached.
    """
    address = _address(options.coordinator, options.processes, options.process)
    if not address and not in_cluster(os.environ):
        return
    if options.coordinator and options.process:
        _wait_for_first(options.coordinator)
    notice = "jdl: waiting for the other processes of this run"
    waiting = Timer(NOTICE_SECONDS, print, [notice], {"file": sys.stderr})
    waiting.start()
    try:
        jax.distributed.initialize(
            **address,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise Error(
            f"The processes of this run could not be connected: {reason}. Check --coordinator, and "
            "that every process was started."
        ) from error
    finally:
        waiting.cancel()
    gather("")  # connects the processes while they are at the same point: see `connect`


def _wait_for_first(coordinator: str) -> None:
    """Waits until the first process can be reached: JAX itself would abort without this message."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Error(
                    f"The first process could not be reached at {coordinator} in "
                    f"{CONNECT_SECONDS} s ({error}): start it with --process 0 on that host, or "
                    "correct --coordinator."
                ) from None
            time.sleep(0.2)


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether SLURM, Open MPI, GKE or a TPU pod started this process as one of several."""
    if "SLURM_STEP_NODELIST" in environment:
        return int(environment.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_SIZE"]) > 1
    devices = ("/dev/accel0", "/dev/vfio/0")
    on_tpu = find_spec("libtpu") is not None and any(Path(path).exists() for path in devices)
    return on_tpu and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu")


def _address(coordinator: str | None, processes: int | None, process: int | None) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize`; empty where no option is set."""
    if coordinator is None and processes is None and process is None:
        return {}
    if coordinator is None or processes is None or process is None:
        raise Error(
            "A run of several processes needs all of --coordinator HOST:PORT --processes N "
            "--process I."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise Error(f"--coordinator must be HOST:PORT of the first process, not {coordinator!r}.")
    if not 0 <= process < processes:
        raise Error(
            f"--process {process} is out of range for --processes {processes}: number them from 0 "
            f"to {processes - 1}."
        )
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise Error(
            f"The host of --coordinator {coordinator} cannot be resolved: {error}."
        ) from error
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}


def exit_if_several(code: int) -> None:
    """Exits at once if this process is one of several: a normal exit would wait for the others."""
    if several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
