"""The arrays of a checkpoint, read without the run that saved it: shapes, types and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jdl.paths import by_path, differing_paths, path_name
from jdl.store.manifest import damage
from jdl.types import Error, State


def check_fit(checkpoint: Path, like: State, remedy: str) -> None:
    """Raises `Error` that names an array where those of a checkpoint are others.

    Before they are read: Orbax's own text has no cure that a user of jdl could apply, and its reads
    that are broken off print tracebacks at the end of the process.
    """
    try:
        wrong = _misfit(checkpoint, like)
    except Exception:  # of damaged metadata: the restore checks all files, and says how
        return
    if wrong:
        raise Error(f"{checkpoint} does not fit this run: {wrong}. {remedy}")


def saved_arrays(checkpoint: Path) -> dict[str, Any]:
    """The shape and type of each array of a saved state, by path: "params/Dense_0/kernel"."""
    tree = ocp.PyTreeCheckpointHandler().metadata((checkpoint / "state").absolute()).tree
    return by_path(tree)


def read_arrays(checkpoint: Path, paths: set[str]) -> dict[str, np.ndarray]:
    """Some arrays of a saved state by path; `Error` where the checkpoint's files are damaged."""
    if wrong := damage(checkpoint):
        raise Error(f"The checkpoint {checkpoint} is damaged: {wrong}.")
    handler, folder = ocp.PyTreeCheckpointHandler(), (checkpoint / "state").absolute()
    found = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path_name(path) in paths else ocp.PLACEHOLDER,
        handler.metadata(folder).tree,
    )
    numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    arguments = ocp.args.PyTreeRestore(found, restore_args=jax.tree.map(lambda _: numpy, found))
    arrays = ocp.Checkpointer(handler).restore(folder, args=arguments)
    return {path: np.asarray(x) for path, x in by_path(arrays).items() if path in paths}


def _misfit(checkpoint: Path, like: State) -> str | None:
    """The first array in which a saved state and a new one differ, in words."""
    saved, wanted = saved_arrays(checkpoint), by_path(like)
    for path in sorted(differing_paths(saved, wanted)):
        if path not in saved:
            return f"it has no {path}"
        if path not in wanted:
            return f"this run has no {path}"
        if not jnp.issubdtype(wanted[path].dtype, jax.dtypes.prng_key):  # saved as its bits
            described = (_described(arrays[path]) for arrays in (saved, wanted))
            return f"{path} is {' there and '.join(described)} here"
    return None


def _described(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
