"""Files as examples: decoded by threads into memory and the cache, or when a batch needs them."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from jdl.data.bad_rows import OnBad, check_on_bad
from jdl.data.cache import cache_dir, read_cache, write_cache
from jdl.data.dataset import Dataset
from jdl.data.folders import LabelledFiles, shown
from jdl.data.source import MEMORY_BYTES
from jdl.types import Bounds, Error

CACHE_VERSION = 1  # of what is decoded: another number where the same files get other numbers
LISTED = 10  # of the files that cannot be read, how many are named

T = TypeVar("T")


class Decoder(Protocol):
    """Decodes a file to an example. Its `repr` tells everything that the numbers depend on."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files that it decodes."""

    @property
    def version(self) -> str:
        """The library that decodes, and its version."""

    @property
    def like(self) -> dict[str, np.ndarray]:
        """An example of the shapes and types of all."""

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column, where all files have the same."""

    def decode(self, file: BufferedReader) -> dict[str, np.ndarray]:
        """The columns of an example; raises any exception where it cannot."""


@dataclass(frozen=True, eq=False)
class FileSource:
    """A source of files, an example each: in memory, or decoded when they are taken.

    In both cases examples, bounds and fingerprint are the same.
    """

    files: LabelledFiles
    decoder: Decoder
    hashes: np.ndarray  # (N, 32) bytes: the SHA-256 of each file
    memory: Mapping[str, np.ndarray] | None = None  # the columns of all files, where they fit
    skipped: tuple[str, ...] = ()  # the files that could not be read, each with the reason

    def __len__(self) -> int:
        return len(self.files.paths)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows; `Error` where a file can no longer be read as it was."""
        if self.memory is not None:
            columns = {name: column[rows] for name, column in self.memory.items()}
        else:
            unique, places = np.unique(rows, return_inverse=True)
            examples = [self._named(int(row)) for row in unique]
            columns = {
                name: np.stack([example[name] for example in examples])[places]
                for name in self.decoder.like
            }
        return {**columns, "y": self.files.y[rows]}

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One column of these rows; for the targets no file is decoded."""
        return self.files.y[rows] if name == "y" else self.take(rows)[name]

    def _named(self, row: int) -> dict[str, np.ndarray]:
        with naming(self.files.places[row]):
            return self.read(row)

    def read(self, row: int) -> dict[str, np.ndarray]:
        """The columns of one file, decoded; raises what the decoder raises."""
        with open_file(self.files.paths[row]) as file:
            if hashlib.file_digest(file, "sha256").digest() != self.hashes[row].tobytes():
                raise ValueError("it has changed since the dataset was made")
            file.seek(0)
            return self.decoder.decode(file)

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The name and the columns of a new file, decoded alike; None for another kind of file."""
        return read_example(self.decoder, path)

    @property
    def nbytes(self) -> int:
        """The size of all columns in bytes."""
        return len(self) * _row_bytes(self.decoder) + self.files.y.nbytes

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.files.labels

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest target, and the bounds that hold for any file."""
        y = self.files.y
        return {**self.decoder.bounds, "y": (y.min().item(), y.max().item())}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files' contents, their targets, and how they are decoded."""
        digest = hashlib.sha256(f"{self.decoder!r} {self.labels} {self.files.y.dtype}\n".encode())
        digest.update(self.hashes.tobytes() + self.files.y.tobytes())
        return digest.hexdigest()


def decoded(files: LabelledFiles, decoder: Decoder, on_bad: OnBad, stream: bool) -> Dataset:
    """The dataset of these files: in memory up to 4 GiB; beyond that, or with `stream`, streamed.

    Every file is hashed, and decoded once by as many threads as there are cores: so what cannot be
    read is known before training begins. The cache on disk keeps what was decoded; of a dataset
    that is streamed, which files can be read.
    """
    check_on_bad(on_bad)
    if files.remark:
        warnings.warn(files.remark, stacklevel=3)
    stream = stream or len(files.paths) * _row_bytes(decoder) > MEMORY_BYTES
    every = FileSource(files, decoder, _hashes(files))
    folder = _cache_folder(every, stream)
    columns, failures = read_cache(folder), dict[int, str]()
    if columns is not None:
        lost = np.setdiff1d(np.arange(len(every)), columns["kept"]).tolist()
        failures = _failures(every.read, lost, "reading again")
        if len(failures) < len(lost):  # a file can be read now: it must not stay out
            columns = None
    if columns is None:
        columns, failures = _decode_all(every, keep=not stream)
        write_cache(folder, columns)
    kept = columns.pop("kept")
    skipped = _report(every, failures, on_bad)
    _check_classes(files, kept)
    source = FileSource(
        files.select(kept), decoder, every.hashes[kept], None if stream else columns, skipped
    )
    dataset = Dataset(source, np.arange(len(source), dtype=np.int32))
    return dataset.streaming() if stream else dataset


def read_example(decoder: Decoder, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """The name and the columns of a file, a row each; None for a file of another kind."""
    if path.suffix.lower() not in decoder.suffixes:
        return None
    with naming(str(path)), open_file(path) as file:
        example = decoder.decode(file)
    return [str(path)], {name: column[None] for name, column in example.items()}


def open_file(path: Path) -> BufferedReader:
    """Opens a regular file; a pipe or a device would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    return open(path, "rb")


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Turns what a decoder raises, which may be of many types, into an `Error` that names a file.

    A lack of memory is this machine's, not the file's.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise Error(f"{place} cannot be read: {_reason(error)}.") from error


def _check_classes(files: LabelledFiles, kept: np.ndarray) -> None:
    """Raises `Error` if no file is left of a class, or none at all."""
    if not len(kept):
        raise Error(f"None of the {len(files.paths):,} files can be read.")
    if not files.labels or files.y.ndim > 1:  # then y is no class
        return
    if lost := set(files.y.tolist()) - set(files.y[kept].tolist()):
        raise Error(f"No file of the class {files.labels[min(lost)]} can be read.")


def _row_bytes(decoder: Decoder) -> int:
    return sum(column.nbytes for column in decoder.like.values())


def _hashes(files: LabelledFiles) -> np.ndarray:
    """The SHA-256 of each file, (N, 32); zeros where it cannot be read."""
    hashes = np.zeros((len(files.paths), 32), np.uint8)

    def fill(row: int) -> None:
        with open_file(files.paths[row]) as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        hashes[row] = np.frombuffer(digest, np.uint8)

    _failures(fill, range(len(hashes)), "hashing")
    return hashes


def _cache_folder(every: FileSource, stream: bool) -> Path:
    version = f"{every.decoder.version} {every.decoder!r} {CACHE_VERSION}"
    key = hashlib.sha256(version.encode() + every.hashes.tobytes()).hexdigest()
    return cache_dir() / "decoded" / f"{key}-{'checked' if stream else 'files'}"


def _decode_all(every: FileSource, keep: bool) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """The columns of the files that can be read (only if `keep`), and `kept`, their rows.

    The second part is why the others cannot be read, by row.
    """
    like = every.decoder.like if keep else {}
    columns = {name: np.zeros((len(every), *v.shape), v.dtype) for name, v in like.items()}

    def fill(row: int) -> None:
        example = every.read(row)
        for name, column in columns.items():
            column[row] = example[name]

    failures = _failures(fill, range(len(every)), "decoding")
    kept = np.setdiff1d(np.arange(len(every), dtype=np.int32), list(failures))
    if failures:
        columns = {name: column[kept] for name, column in columns.items()}
    return {**columns, "kept": kept}, failures


def _failures(function: Callable[[int], Any], rows: Sequence[int], what: str) -> dict[int, str]:
    """Calls the function for each row, in a thread a core; why it failed, by row."""

    def reason(row: int) -> str | None:
        try:
            function(row)
        except MemoryError:
            raise
        except Exception as error:
            return _reason(error)
        return None

    with ThreadPoolExecutor(cores()) as threads:
        reasons = list(progress(threads.map(reason, rows), len(rows), what))
    return {int(row): why for row, why in zip(rows, reasons, strict=True) if why is not None}


def cores() -> int:
    """The number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def progress(results: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The results, with a progress bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, what, total, console=Console(stderr=True), transient=True)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown((text.splitlines() or [type(error).__name__])[0][:200]).rstrip(".")


def _report(every: FileSource, failures: Mapping[int, str], on_bad: OnBad) -> tuple[str, ...]:
    """The files that cannot be read, with the reasons: raises `Error`, or warns of them."""
    bad = tuple(f"{every.files.places[row]}: {reason}" for row, reason in failures.items())
    if not bad:
        return ()
    total, more = len(every), f"\n  and {len(bad) - LISTED:,} more" * (len(bad) > LISTED)
    text = f"{len(bad):,} of {total:,} files cannot be read:\n  " + "\n  ".join(bad[:LISTED]) + more
    if on_bad == "raise":
        raise Error(
            f"{text}\nThe other {total - len(bad):,} can. Repair or remove them, or leave them out "
            'by on_bad="skip".'
        )
    warnings.warn(f"{text}\nThey are left out.", stacklevel=4)
    return bad
