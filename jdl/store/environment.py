"""What a run ran on: versions, devices, flags; and the cache of compiled programs."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jdl.data.cache import cache_dir

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
VARIABLES = ("XLA_FLAGS", "PJRT_NPROC", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
)


def fingerprint() -> dict[str, Any]:
    """All that the bits of a training may depend on, beside its config and data."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "host": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "processes": jax.process_count(),
        },
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "settings": {name: _setting(name) for name in SETTINGS},
    }


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def git_commit(script: Path | None) -> str | None:
    """The commit of the repository that the script lies in, with "+changes" where files differ from it."""
    folder = script.resolve().parent if script else Path.cwd()
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + (
            "+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def command() -> list[str]:
    """The command line of this process."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def use_compilation_cache() -> None:
    """Keeps compiled programs in jdl's cache, a folder a kind of processor: they hold its machine code."""
    if _setting("jax_compilation_cache_dir"):
        return  # the user has chosen another
    try:
        flags = next(
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        )
    except (OSError, StopIteration):
        flags = platform.processor()
    kind = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla" / kind))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quiet_libraries() -> None:
    """Keeps the libraries' notes to themselves: what a user must know, jdl says."""
    for name in ("absl", "asyncio", "jax._src.compiler", "jax._src.xla_bridge", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
