"""Random keys by name and step, derived from one key per run that is never split.

So a restart needs no random state besides that key and the step.
"""

from zlib import crc32

import jax
import numpy as np


def stream(key: jax.Array, name: str, step: jax.Array | int = 0) -> jax.Array:
    """The key of the random stream `name` at `step`, by `jax.random.fold_in` alone.

    Equal arguments give equal keys, in any process. Names are hashed by CRC-32, because Python's
    `hash` of a string differs between processes.
    """
    return jax.random.fold_in(jax.random.fold_in(key, np.uint32(crc32(name.encode()))), step)
