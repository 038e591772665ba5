"""Decoded columns of tables, in memory or in jdl's cache, from where they are memory-mapped."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jdl.data.cache import cache_dir
from jdl.data.columns import Column, ColumnWriter, DecodedTable

Decode = Callable[[ColumnWriter], DecodedTable]


class MemoryWriter:
    """Collects the columns in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def append(self, name: str, data: np.ndarray) -> None:
        """Adds the next rows of a column."""
        self._parts.setdefault(name, []).append(data)

    def clear(self) -> None:
        """Forgets what was appended."""
        self._parts = {}

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


class FileWriter:
    """Writes each column to a file of its own in a folder, as it comes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._files: dict[str, BinaryIO] = {}
        self._sums: dict[str, Any] = {}

    def append(self, name: str, data: np.ndarray) -> None:
        """Adds the next rows of a column."""
        if name not in self._files:
            file = open(self._folder / f"{len(self._files)}.bin", "wb")  # noqa: SIM115
            self._files[name] = self._stack.enter_context(file)
            self._sums[name] = hashlib.sha256()
        content = np.ascontiguousarray(data).data
        self._sums[name].update(content)
        self._files[name].write(content)

    def clear(self) -> None:
        """Forgets what was appended."""
        for file in self._files.values():
            file.close()
        self._files, self._sums = {}, {}

    def sums(self) -> dict[str, str]:
        """SHA-256 of each column."""
        for file in self._files.values():
            file.close()
        return {name: digest.hexdigest() for name, digest in self._sums.items()}


def in_memory(decode: Decode) -> tuple[dict[str, Column], DecodedTable]:
    """The decoded columns, in memory."""
    writer = MemoryWriter()
    decoded = decode(writer)
    return _columns(decoded, writer.arrays()), decoded


def in_cache(key: str, decode: Decode) -> tuple[dict[str, Column], DecodedTable]:
    """The columns in the cache under this key, memory-mapped; decoded first where they are missing.

    Where the cache cannot be written (a full or read-only disk), they are decoded into memory.
    """
    folder = cache_dir() / "tables" / key
    if (found := _read(folder)) is not None:
        return found
    try:
        with _new_folder(folder) as new, ExitStack() as stack:
            writer = FileWriter(new, stack)
            decoded = decode(writer)
            about = {"rows": decoded.rows, "kinds": decoded.kinds, "values": decoded.values}
            content = json.dumps({**about, "sha256": writer.sums()})
            (new / "columns.json").write_text(content, "utf-8")
    except OSError:  # of writing: a source that cannot be read raises `Error`
        return in_memory(decode)
    return _read(folder) or in_memory(decode)


def _read(folder: Path) -> tuple[dict[str, Column], DecodedTable] | None:
    """The columns in a folder; None where they are missing or damaged."""
    try:
        about = json.loads((folder / "columns.json").read_text("utf-8"))
        values = {name: tuple(texts) for name, texts in about["values"].items()}
        decoded = DecodedTable(about["kinds"], values, tuple(about["rows"]))
        arrays = {}
        for n, (name, expected) in enumerate(about["sha256"].items()):
            dtype = np.int32 if decoded.kinds[name] == "category" else np.float64
            data = np.memmap(folder / f"{n}.bin", dtype, "r", shape=(sum(decoded.rows),))
            if hashlib.sha256(data.data).hexdigest() != expected:
                return None
            arrays[name] = data.view(np.ndarray)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _columns(decoded, arrays), decoded


def _columns(decoded: DecodedTable, arrays: dict[str, np.ndarray]) -> dict[str, Column]:
    return {
        name: Column(name, kind, arrays[name], decoded.values.get(name, ()))
        for name, kind in decoded.kinds.items()
    }


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which then takes the place of `folder` (atomically, by renaming)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        new.rename(folder)
