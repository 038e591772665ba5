"""Arrays in files: NumPy's .npz in memory, and HDF5 in memory or streamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.cache import cache_dir
from jdl.data.dataset import Dataset, arrays
from jdl.data.indexed import check_names
from jdl.data.source import MEMORY_BYTES, check_column
from jdl.types import Bounds, Error

BLOCK = 1 << 20  # bytes that are read at a time where a file has no chunks
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
READ_EVENT = "jdl.data.read"  # an audit event (PEP 578) of what is read without being opened
NPZ_ERRORS = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError),
    *(RecursionError, zipfile.BadZipFile, zlib.error),
)
# What h5py raises for damaged files, and for types that NumPy lacks.
HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)


def npz(path: str | Path, *, labels: Sequence[str] = (), **columns: str) -> Dataset:
    """A dataset of the arrays in a .npz file of NumPy: `npz("data.npz", x="images", y="labels")`.

    Each column is an array of that name, one row per example; by default all arrays, by their
    names. Nothing is unpickled. Raises `Error` for a damaged file, and for one whose arrays do not
    fit into the machine's memory.
    """
    names = columns or {name: name for name in _npz_names(Path(path))}
    check_names(names)
    read = read_npz(Path(path), list(names.values()))
    return arrays(labels, **{column: read[name] for column, name in names.items()})


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a .npz file, after their headers have been checked against the file's directory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist()]
            missing = [name for name in names if f"{name}.npy" not in members]
            if missing:
                found = ", ".join(name.removesuffix(".npy") for name in members) or "nothing"
                raise Error(
                    f"{path} contains {found}, but needs an array {missing[0]}: save it under that "
                    "name."
                )
            _check_sizes(archive, [f"{name}.npy" for name in names])
            read = {}
            for name in names:
                with archive.open(f"{name}.npy") as file:
                    read[name] = np.lib.format.read_array(file, allow_pickle=False)
            return read
    except NPZ_ERRORS as error:
        raise Error(f"{path} cannot be read as an npz file: {error}.") from error


def read_npy(path: Path) -> np.ndarray:
    """The rows of a .npy file; `Error` where it cannot be read, or is one number."""
    try:
        found = np.load(path, allow_pickle=False)
    except NPZ_ERRORS as error:
        raise Error(f"{path} cannot be read as an npy file: {error}.") from error
    if not isinstance(found, np.ndarray) or not found.ndim:
        raise Error(f"{path} is no array of rows.")
    return found


def _npz_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except NPZ_ERRORS as error:
        raise Error(f"{path} cannot be read as an npz file: {error}.") from error


def _check_sizes(archive: zipfile.ZipFile, members: Sequence[str]) -> None:
    """Raises where headers claim other sizes than the archive has, or more than the memory."""
    total = 0
    for member in members:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in HEADERS:
                raise ValueError(f"{member} has the format {version}")
            shape, _, dtype = HEADERS[version](file)
            size = dtype.itemsize * int(np.prod(shape, dtype=object))
            if dtype.kind not in "biuf" or not shape:
                raise ValueError(
                    f"{member} holds {dtype} of shape {shape}: it must contain arrays of numbers, "
                    "with one row per input"
                )
            if file.tell() + size != archive.getinfo(member).file_size:
                raise ValueError(f"{member} claims {size} bytes, which it does not have")
        total += size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total > memory:
        raise ValueError(
            f"its arrays need {total >> 30} GiB of memory, and the machine has {memory >> 30}; "
            "HDF5 can be streamed"
        )


def hdf5(
    path: str | Path, *, labels: Sequence[str] = (), stream: bool = False, **columns: str
) -> Dataset:
    """A dataset of the arrays in an HDF5 file: `hdf5("data.h5", x="train/images", y="labels")`.

    Each column is an HDF5 dataset, one row per example; by default all at the top. Up to 4 GiB are
    read into memory; more, and any with `stream`, is read row by row in threads, each chunk of the
    file once a batch. Raises `Error` for a damaged file, and for what is no array of numbers.
    """
    source = HDF5Rows(Path(path), columns, tuple(labels))
    check_names(source.names)
    rows = np.arange(len(source), dtype=np.int32)
    if stream or source.nbytes > MEMORY_BYTES:
        source.take(rows[:1])
        return Dataset(source, rows).streaming()
    return arrays(labels, **source.read(rows))


@dataclass(frozen=True, eq=False)
class HDF5Rows:
    """A source (`jdl.data.source.Source`) of the rows of an HDF5 file."""

    path: Path
    columns: Mapping[str, str]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._arrays)

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        """The HDF5 dataset of each column, from the open file."""
        import h5py

        try:
            file = h5py.File(self.path, "r")
            top = {name: name for name, node in file.items() if isinstance(node, h5py.Dataset)}
            names = self.columns or top
            missing = [name for name in names.values() if name not in file]
            if missing or not names:
                raise Error(
                    f"{self.path} has {', '.join(file) or 'nothing'} at the top, but "
                    f"{f'no {missing[0]}' if missing else 'no arrays'}: name the columns, "
                    'x="group/name".'
                )
            found = {column: file[name] for column, name in names.items()}
            for column, array in found.items():
                _check_array(f"{column} in {self.path}", array)
        except HDF5_ERRORS as error:
            raise Error(f"{self.path} cannot be read as an HDF5 file: {error}.") from error
        lengths = {column: len(array) for column, array in found.items()}
        if len(set(lengths.values())) > 1 or not 0 < min(lengths.values()) < 2**31:
            raise Error(
                f"All columns of {self.path} must have the same number of rows, at least 1, but "
                f"they have {lengths}."
            )
        return found

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, as a dataset has them."""
        return {name: self.column(name, rows) for name in self._arrays}

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One column of these rows."""
        try:
            return check_column(name, self._read(name, rows))
        except Error as error:
            raise Error(f"{self.path}, among the rows {rows[:20].tolist()}: {error}") from error

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, as the file has them."""
        return {name: self._read(name, rows) for name in self._arrays}

    def _read(self, name: str, rows: np.ndarray) -> np.ndarray:
        try:
            return _read_rows(self._arrays[name], rows)
        except HDF5_ERRORS as error:
            raise Error(f"{self.path} cannot be read: it is damaged, {error}.") from error

    @property
    def nbytes(self) -> int:
        """The size of all columns in bytes, in the file's own types."""
        return sum(array.nbytes for array in self._arrays.values())

    @property
    def bounds(self) -> Bounds:
        """Unknown: that would need all rows."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the columns' names and of the file."""
        names = {column: array.name for column, array in self._arrays.items()}
        return hashlib.sha256(
            f"{sorted(names.items())} {file_sha256(self.path)}".encode()
        ).hexdigest()


def _check_array(name: str, array: Any) -> None:
    """Raises `Error` for what is no array of numbers."""
    kind = getattr(array, "dtype", None)
    if kind is None or kind.kind not in "biuf":
        raise Error(f"{name} holds no numbers, but {'a group' if kind is None else kind}.")
    if not array.shape:
        raise Error(f"{name} is one number: it needs one row per example.")


def _read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an HDF5 dataset in any order, by one read of each chunk of the file that has some.

    h5py takes only ascending indices, and is slow where there are many.
    """
    wanted, places = np.unique(rows, return_inverse=True)
    row_bytes = max(1, array.nbytes // len(array))
    size = array.chunks[0] if array.chunks else max(1, BLOCK // row_bytes)
    groups = np.split(wanted, np.flatnonzero(np.diff(wanted // size)) + 1)
    parts = [array[group[0] : group[-1] + 1][group - group[0]] for group in groups]
    return np.concatenate(parts)[places]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; kept in jdl's cache until its size or its time of change is another."""
    sys.audit(READ_EVENT, str(path))
    status = path.stat()
    version = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    kept = cache_dir() / "sha256" / hashlib.sha256(version.encode()).hexdigest()
    try:
        return kept.read_text()
    except OSError:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a full or read-only disk: it is computed again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(f".{os.getpid()}")
        new.write_text(digest)
        new.replace(kept)
    return digest
