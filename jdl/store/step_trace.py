"""Evidence of a training: the exact numbers of every step, and a sum of every leaf of every state that was saved.

`trace.f32` has a row a step: loss, grad_norm and param_norm as they were fetched, to the bit (float32, little-endian).
`leaves.jsonl` has a line for each state that was saved or gone on from. Neither holds a time.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.learners.skip_nonfinite import WATCHED
from jdl.parallel.multihost import to_host
from jdl.parallel import processes
from jdl.store.folder import read_lines, write_lines, write_whole
from jdl.types import State

ROW = np.dtype("<f4")


class Trace:
    """The numbers of every step of a run that begins, or goes on, after step `start`."""

    def __init__(self, folder: Path, start: int) -> None:
        rows = read_trace(folder)[:start]
        missing = np.full((start - len(rows), len(WATCHED)), np.nan, ROW)
        write_whole(folder / "trace.f32", np.concatenate([rows, missing]).tobytes())
        self._file = (folder / "trace.f32").open("ab")

    def write(self, numbers: dict[str, Any]) -> None:
        """The next step's."""
        self._file.write(np.asarray([numbers.get(name, np.nan) for name in WATCHED], ROW).tobytes())

    def flush(self) -> None:
        """Hands all rows to the system."""
        self._file.flush()

    def close(self) -> None:
        """Ends the trace."""
        self._file.close()


def read_trace(folder: Path) -> np.ndarray:
    """The rows (steps, 3) of float32; none where there is no file."""
    path = folder / "trace.f32"
    numbers = np.frombuffer(path.read_bytes() if path.is_file() else b"", np.uint8)
    width = ROW.itemsize * len(WATCHED)
    return numbers[: len(numbers) // width * width].view(ROW).reshape(-1, len(WATCHED))


def write_leaves(folder: Path, state: State, start: bool = False) -> None:
    """Adds the sums of a state; at the `start` of a process those of later steps go, which will be written again."""
    path, entry = (
        folder / "leaves.jsonl",
        {"step": int(state.step), "start": start, "leaves": _sums(state)},
    )
    if not processes.first():
        return  # of several processes all have computed the sums, and one writes them
    if start:
        write_lines(
            path, [kept for kept in read_leaves(folder) if kept["step"] <= entry["step"]] + [entry]
        )
    else:
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read_leaves(folder: Path) -> list[dict[str, Any]]:
    """The step and the sums, by leaf, of each state that was saved or gone on from."""
    return read_lines(folder / "leaves.jsonl", "leaves", dict)


def _sums(state: State) -> dict[str, str]:
    """CRC-32 of each leaf's bytes, by its path."""
    found = {}
    for part in ("params", "model_state", "opt_state"):
        for path, leaf in jax.tree_util.tree_leaves_with_path({part: getattr(state, part)}):
            array = to_host(
                jax.random.key_data(leaf)
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                else leaf
            )
            number = zlib.crc32(np.ascontiguousarray(array).data)
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = f"{number:08x}"
    return found
