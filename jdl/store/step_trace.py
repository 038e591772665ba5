"""The step trace: the exact metrics of every step, and checksums of every saved state.

`trace.f32` has a row for each step: loss (the total of the batch), grad_norm and param_norm,
exactly (little-endian float32). `leaves.jsonl` has a line for each state that was saved or resumed
from. Neither has timestamps: `jdl diff` and `jdl repeat` compare these files.
"""

from __future__ import annotations

import json
import operator
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.learners.skip_nonfinite import CHECKED_METRICS
from jdl.parallel import processes
from jdl.paths import path_name
from jdl.store.crc import crc_of_bytes, crc_of_shard, crc_of_zeros
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

    At the `start` of a process, lines of later steps are dropped: they will be written again. With
    several processes, all must call it, in a thread or not: no leaf leaves its process.
    """
    step, path = int(state.step), folder / "leaves.jsonl"
    leaves = _checksums(state, f"leaves/{step}{'/start' if start else ''}")
    if not processes.is_first():
        return
    entry = {"step": step, "start": start, "leaves": leaves}
    if start:
        kept = [line for line in read_leaves(folder) if line["step"] <= step]
        write_json_lines(path, [*kept, entry])
    else:
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read_leaves(folder: Path) -> list[dict[str, Any]]:
    """The lines of leaves.jsonl: a state's step, and the checksums of its leaves by path."""
    return read_json_lines(folder / "leaves.jsonl", "leaves", dict)


def _checksums(state: State, name: str) -> dict[str, str]:
    """CRC-32 of each leaf's bytes, by its path, in the first process; in others an empty dict."""
    leaves = {
        path_name(path): leaf
        for part in PARTS
        for path, leaf in jax.tree_util.tree_leaves_with_path({part: getattr(state, part)})
    }
    own = [_added_here(leaf) for leaf in leaves.values()]
    added = [json.loads(text) for text in processes.collect(name, json.dumps(own))]
    sums = (reduce(operator.xor, numbers) for numbers in zip(*added, strict=True))
    return {path: f"{number:08x}" for path, number in zip(leaves, sums, strict=False)}


def _added_here(leaf: Any) -> int:
    """What this process adds, by exclusive or, to the CRC-32 of a leaf: its shards'."""
    array = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    first = processes.is_first()
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return crc_of_bytes(np.asarray(array)) if first else 0
    shards = (shard for shard in array.addressable_shards if shard.replica_id == 0)
    added = (crc_of_shard(np.asarray(each.data), each.index, array.shape) for each in shards)
    return reduce(operator.xor, added, crc_of_zeros(array.nbytes) if first else 0)
