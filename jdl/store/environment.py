"""The environment of a run: versions, devices, flags, threads; what numerical bits depend on."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "jdl",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)
POOL_VARIABLES = ("PJRT_NPROC", "NPROC")  # XLA reads the first that is set
DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
VARIABLES = ("XLA_FLAGS", *POOL_VARIABLES, "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
)


def fingerprint() -> dict[str, Any]:
    """The environment, recorded with a run: what its bits may depend on beside config and data."""
    versions = {name: version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "devices": {
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "local": jax.local_device_count(),
        },
        "host": {
            "machine": platform.machine(),
            "instructions": instruction_set(),
            "cores": cores(),
            "processes": jax.process_count(),
        },
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "settings": {name: setting(name) for name in SETTINGS},
    }


def setting(name: str) -> Any:
    """The value of a setting in `jax.config`."""
    return getattr(jax.config, name)


def instruction_set() -> str:
    """A short hash of the processor's instruction set, which compiled programs depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]


def cores() -> int:
    """The number of cores that this process may use (`taskset` and containers limit them)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def layout(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that change a run's numbers, by rounding.

    How many steps a call has makes no difference, if it has more than one.
    """
    found = {name: options.get(name) for name in ("devices", "mesh", "parallel")}
    return found | ({"steps_per_call": "several"} if options.get("steps_per_call", 1) > 1 else {})


def numerics_environment(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's recorded environment and options that its bits depend on, by name.

    Two runs with the same config and data are expected to be equal to the bit if it is equal.
    """
    environment, options = record["environment"], record["options"]
    devices, host = _part(environment, "devices"), _part(environment, "host")
    variables, on_cpu = _part(environment, "variables"), devices.get("kind") == "cpu"
    numerics = {"device": devices.get("kind")}
    if on_cpu:
        numerics["CPU instructions"] = host.get("instructions")
        numerics["CPU thread pool"] = thread_pool_size(environment)
    if not record["config"].get("elastic"):
        numerics |= layout(options)
        numerics["processes"] = host.get("processes")
        if host.get("processes") != 1:  # several processes use all of their devices
            numerics["devices of all processes"] = devices.get("count")
    numerics |= {name: value for name, value in variables.items() if name not in POOL_VARIABLES}
    return numerics | _part(environment, "versions") | _part(environment, "settings")


def thread_pool_size(environment: dict[str, Any]) -> int | None:
    """The size of XLA's CPU thread pool in a recorded environment; None where it is unknown.

    PJRT_NPROC where it is set, or else NPROC, or else the number of cores; at least the number of
    simulated devices. The bits of matrix products depend on it.
    """
    variables = _part(environment, "variables")
    named = [variables[name] for name in POOL_VARIABLES if name in variables]
    try:
        size = int(named[0] if named else _part(environment, "host")["cores"])
        return max(size, int(_part(environment, "devices")["local"]))
    except (KeyError, TypeError, ValueError):
        return None


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def git_commit(script: Path | None) -> str | None:
    """The git commit of the script's repository, with "+changes" where files differ from it."""
    folder = script.resolve().parent if script else Path.cwd()
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    completed = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    return completed.stdout.strip()


def command_line() -> list[str]:
    """The command line of this process."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
