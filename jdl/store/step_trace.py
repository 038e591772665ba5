"""The step trace: the exact metrics of every step, and checksums of every saved state.

`trace.f32` has a row for each step: loss, grad_norm and param_norm, exactly (little-endian
float32). `leaves.jsonl` has a line for each state that was saved or resumed from. Neither has
timestamps: `jdl diff` and `jdl repeat` compare these files.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.learners.skip_nonfinite import CHECKED_METRICS
from jdl.parallel import processes
from jdl.parallel.multihost import to_host
from jdl.store.folder import read_json_lines, write_atomically, write_json_lines
from jdl.types import State

ROW = np.dtype("<f4")
PARTS = ("params", "model_state", "opt_state", "extra")  # fields of State whose leaves are listed


class StepTrace:
    """The writer of trace.f32, for a run that starts or resumes after step `start`."""

    def __init__(self, folder: Path, start: int) -> None:
        rows = read_trace(folder)[:start]
        missing = np.full((start - len(rows), len(CHECKED_METRICS)), np.nan, ROW)
        write_atomically(folder / "trace.f32", np.concatenate([rows, missing]).tobytes())
        self._file = (folder / "trace.f32").open("ab")

    def write(self, numbers: dict[str, Any]) -> None:
        """Adds the next step's row."""
        row = [numbers.get(name, np.nan) for name in CHECKED_METRICS]
        self._file.write(np.asarray([row], ROW).tobytes())

    def flush(self) -> None:
        """Hands all rows to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_trace(folder: Path) -> np.ndarray:
    """The step trace (steps, 3) of float32; without rows where there is no file."""
    path = folder / "trace.f32"
    data = np.frombuffer(path.read_bytes() if path.is_file() else b"", np.uint8)
    width = ROW.itemsize * len(CHECKED_METRICS)
    return data[: len(data) // width * width].view(ROW).reshape(-1, len(CHECKED_METRICS))


def write_leaves(folder: Path, state: State, start: bool = False) -> None:
    """Adds the checksums of a state's leaves to leaves.jsonl.

    At the `start` of a process, lines of later steps are dropped: they will be written again. A
    collective: with several processes, all must call it.
    """
    entry = {"step": int(state.step), "start": start, "leaves": _checksums(state)}
    path = folder / "leaves.jsonl"
    if not processes.is_first():
        return
    if start:
        kept = [line for line in read_leaves(folder) if line["step"] <= entry["step"]]
        write_json_lines(path, [*kept, entry])
    else:
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read_leaves(folder: Path) -> list[dict[str, Any]]:
    """The lines of leaves.jsonl: a state's step, and the checksums of its leaves by path."""
    return read_json_lines(folder / "leaves.jsonl", "leaves", dict)


def _checksums(state: State) -> dict[str, str]:
    """CRC-32 of each leaf's bytes, by its path."""
    sums = {}
    for part in PARTS:
        for path, leaf in jax.tree_util.tree_leaves_with_path({part: getattr(state, part)}):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            array = to_host(jax.random.key_data(leaf) if is_key else leaf)
            number = zlib.crc32(np.ascontiguousarray(array).data)
            sums[jax.tree_util.keystr(path, simple=True, separator="/")] = f"{number:08x}"
    return sums
