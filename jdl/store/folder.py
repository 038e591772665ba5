"""The path of a run's folder, and atomic writing of its files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jdl.config import Config, digest
from jdl.types import Error

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
)


class DiskError(Error):
    """The disk is full, or cannot be written."""


def run_folder(root: Path, config: Config) -> Path:
    """The folder of a run: root/<name>/<config digest>/seed<k>."""
    return Path(root) / config.name / digest(config) / f"seed{config.seed}"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically: into a temporary file in the same folder, which is then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_atomically(path, f"{json.dumps(value, indent=1)}\n".encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file; `Error` where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Error(f"{path} cannot be read as JSON: {error}. Is its folder a run's?") from error


def read_description(
    path: Path, format: int, fields: Mapping[str, type], kind: str, advice: str
) -> dict[str, Any]:
    """The JSON object that describes a folder of some kind, with fields of these types.

    Raises `Error`, with advice, where its format is newer than `format`, or it is damaged.
    """
    found = read_json(path)
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > format:
        raise Error(
            f"{path} is of format {number}, and this jdl reads formats up to {format}: {advice}."
        )
    if number != format or not all(isinstance(found.get(k), t) for k, t in fields.items()):
        raise Error(f"{path} is damaged: it does not describe {kind}.")
    return dict(found)


def write_json_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    """Writes JSON lines (one object per line) atomically."""
    write_atomically(path, "".join(f"{json.dumps(entry)}\n" for entry in entries).encode())


def read_json_lines(path: Path, field: str, kind: type) -> list[dict[str, Any]]:
    """Reads JSON lines: objects that have a `step` and the given field of the given type.

    Empty where there is no file. A last line that a kill cut off is dropped. Raises `Error` for any
    other line that is not such an object.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
    entries = []
    for number, line in enumerate(lines, 1):
        entry = json_line(line, field, kind)
        if entry is None:
            if number == len(lines):
                break
            raise Error(
                f"{path}, line {number}, is damaged: {line[:80]!r}. Restore the file, or train the "
                "run again with --fresh."
            )
        entries.append(entry)
    return entries


def json_line(line: str | bytes, field: str, kind: type) -> dict[str, Any] | None:
    """A JSON line with a `step` and the given field of the given type; None where it is not one."""
    try:
        entry = json.loads(line)
        if isinstance(entry["step"], int) and isinstance(entry[field], kind):
            return dict(entry)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def free_name(path: Path, first: int = 0) -> Path:
    """The path with .0, .1, ... appended, counted from `first`: the first that does not exist."""
    names = (path.with_name(f"{path.name}.{n}") for n in range(first, 10**6))
    return next(name for name in names if not name.exists())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write in, which then becomes `folder`: complete, or not there at all.

    Raises `Error` where it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError as error:
        raise Error(f"{folder} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def report_disk_errors(folder: Path) -> Iterator[None]:
    """Turns an `OSError` into a `DiskError` with advice: the disk is full, or not writable."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL + NOT_WRITABLE:
            raise
        raise DiskError(
            f"{folder} could not be written: {error}. Earlier checkpoints are intact: free some "
            "disk space, or make the folder writable, and run the same command again to resume."
        ) from error
