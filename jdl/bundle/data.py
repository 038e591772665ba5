"""The data that a run reads: found by watching which files are opened while it is built."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdl.data.array_files import READ_EVENT
from jdl.data.cache import cache_dir
from jdl.data.fetch import PACKAGES
from jdl.data.tfds_records import default_data_dir

FETCHED, PREPARED, FILES = "fetched", "prepared", "files"  # folders of a bundle
_watching: list[set[Path]] = []


@dataclass(frozen=True)
class Part:
    """A part of the data: its name, its files by their place in a bundle, how to get it."""

    name: str
    files: dict[str, Path]
    how: str

    @property
    def nbytes(self) -> int:
        """The size of its files."""
        return sum(path.stat().st_size for path in self.files.values())


@contextmanager
def watch_files() -> Iterator[set[Path]]:
    """The files that Python opens for reading within the block, or that jdl has hashed before.

    By an audit hook (PEP 578), of which a process keeps one.
    """
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    found: set[Path] = set()
    _watching.append(found)
    try:
        yield found
    finally:
        _watching.remove(found)


_hooked: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or not arguments or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    reads = event == "open" and arguments[2] & os.O_ACCMODE == os.O_RDONLY
    if reads or event == READ_EVENT:
        path = Path(os.fsdecode(arguments[0])).absolute()
        for found in _watching:
            found.add(path)


def data_parts(found: set[Path], run_folder: Path) -> tuple[list[Part], list[Path]]:
    """The parts of the data among files that were read, and those that lie elsewhere.

    Parts are datasets that `jdl data fetch` or `jdl data prepare` gets, and files beneath the
    folder that this process works in. Code, libraries, caches and the run's own folder are no data.
    """
    here = Path.cwd()
    fetched, prepared = cache_dir().absolute() / "fetched", default_data_dir().absolute()
    parts: dict[str, Part] = {}
    outside = []
    for path in sorted(path for path in found if path.is_file()):
        if path.is_relative_to(fetched):
            name = path.relative_to(fetched).parts[0]
            how = f"jdl data fetch {name}"
            if name in PACKAGES:
                _add(parts, Part(name, {f"{FETCHED}/{path.relative_to(fetched)}": path}, how))
        elif path.is_relative_to(prepared):
            name = path.relative_to(prepared).parts[0]
            beside = path.parent.iterdir() if path.name == "dataset_info.json" else ()
            files = {f"{PREPARED}/{p.relative_to(prepared)}": p for p in beside if p.is_file()}
            _add(parts, Part(name, files, f"jdl data prepare {name}"))
        elif _is_code(path, run_folder):
            continue
        elif path.is_relative_to(here):
            place = f"{FILES}/{path.relative_to(here)}"
            _add(parts, Part(FILES, {place: path}, f"put them into {FILES}/"))
        else:
            outside.append(path)
    return [part for part in parts.values() if part.files], outside


def _add(parts: dict[str, Part], part: Part) -> None:
    files = parts[part.how].files if part.how in parts else {}
    parts[part.how] = Part(part.name, {**files, **part.files}, part.how)


def _is_code(path: Path, run_folder: Path) -> bool:
    """Whether a file is one of code, of a library, of a cache or of the system."""
    here = Path.cwd()
    system = ("/proc", "/sys", "/dev", "/etc", "/usr", "/run", "/var", tempfile.gettempdir())
    folders = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *system]
    folders = [*map(Path, folders), cache_dir().absolute(), run_folder.absolute()]
    beneath = path.relative_to(here) if path.is_relative_to(here) else path
    return (
        path.suffix in (".py", ".pyc", ".pth", ".so")
        or any(part.startswith(".") for part in beneath.parts)
        or any(path.is_relative_to(f) for f in folders if not here.is_relative_to(f))
    )


def within(parts: list[Part], most: int) -> list[Part]:
    """The parts that together have at most `most` bytes: files that are nowhere else come first.

    Of prepared datasets all or none, as they are looked for in one folder.
    """
    taken: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.name != FILES, part.nbytes)):
        if sum(p.nbytes for p in taken) + part.nbytes <= most:
            taken.append(part)
    if any(_is_prepared(part) for part in parts if part not in taken):
        taken = [part for part in taken if not _is_prepared(part)]
    return taken


def _is_prepared(part: Part) -> bool:
    return any(place.startswith(f"{PREPARED}/") for place in part.files)
