"""What JAX is set up with before its first use: a cache of compiled programs, quiet logs."""

from __future__ import annotations

import logging

import jax

from jdl.data.cache import cache_dir
from jdl.store.environment import instruction_set, setting


def use_compilation_cache() -> None:
    """Keeps compiled programs in jdl's cache, in a folder for each kind of processor.

    Compiled programs hold the processor's machine code. A cache that the user has chosen stays.
    """
    if setting("jax_compilation_cache_dir"):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla" / instruction_set()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quiet_libraries() -> None:
    """Silences the libraries' own log messages: what a user must know, jdl prints."""
    for name in ("absl", "asyncio", "jax._src.compiler", "jax._src.xla_bridge", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
