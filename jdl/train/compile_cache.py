"""JAX's persistent compilation cache, and quiet logs; to be set up before JAX's first use."""

from __future__ import annotations

import logging

import jax

from jdl.data.cache import cache_dir
from jdl.store.environment import instruction_set, setting


def use_compilation_cache() -> None:
    """Turns on JAX's persistent compilation cache, in jdl's cache, one folder per processor type.

    Compiled programs contain machine code, so processors cannot share them. A cache that the user
    has configured is left as it is.
    """
    if setting("jax_compilation_cache_dir"):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla" / instruction_set()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quiet_libraries() -> None:
    """Silences the log messages of libraries: jdl prints what the user needs to know."""
    for name in ("absl", "asyncio", "jax._src.compiler", "jax._src.xla_bridge", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
