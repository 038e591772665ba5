"""Randomness by name and step: one key a run, never split and carried, so that nothing is lost at a restart."""

from zlib import crc32

import jax
import numpy as np

from jdl.types import Array, Key


def stream(key: Key, name: str, step: Array | int = 0) -> Key:
    """The key of the stream `name` at `step`: equal arguments give equal keys, in any process.

    Names are hashed by CRC-32, because Python's `hash` is salted anew in every process.
    """
    return jax.random.fold_in(jax.random.fold_in(key, np.uint32(crc32(name.encode()))), step)
