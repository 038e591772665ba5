"""The data that a run reads: found by watching which files are opened while it is built."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdl.data.array_files import READ_EVENT
from jdl.data.cache import cache_dir
from jdl.data.fetch import PACKAGES
from jdl.data.tfds_records import default_data_dir
from jdl.store.catalog import find
from jdl.train.experiment import recorded
from jdl.types import Error
from jdl.weights.hub import PREFIX
from jdl.weights.load import RUN

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
        path = _absolute(os.fsdecode(arguments[0]))
        for found in _watching:
            found.add(path)


def _absolute(path: Path | str) -> Path:
    """The absolute path, without "..", so that a place in a bundle is within it.

    Links stay as they are: a link to data beneath a folder is beneath it.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100


def data_parts(found: set[Path], run_folder: Path) -> tuple[list[Part], list[Path]]:
    """The parts of the data among files that were read, and those that lie elsewhere.

    Parts are datasets that `jdl data fetch` or `jdl data prepare` gets, and files beneath the
    folder that this process works in. Code, libraries, jdl's cache and the run's own folder are no
    data; what is in hidden folders stays where it is, as what lies elsewhere.
    """
    here = Path.cwd()
    fetched, prepared = _absolute(cache_dir()) / "fetched", _absolute(default_data_dir())
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
        elif path.is_relative_to(here) and not _is_hidden(path.relative_to(here)):
            place = f"{FILES}/{path.relative_to(here)}"
            _add(parts, Part(FILES, {place: path}, f"put them into {FILES}/"))
        else:
            outside.append(path)
    return [part for part in parts.values() if part.files], outside


def _add(parts: dict[str, Part], part: Part) -> None:
    files = parts[part.how].files if part.how in parts else {}
    parts[part.how] = Part(part.name, {**files, **part.files}, part.how)


def _is_code(path: Path, run_folder: Path) -> bool:
    """Whether a file is one of code, of a library, of jdl's cache or of the system."""
    here = Path.cwd()
    system = ("/proc", "/sys", "/dev", "/etc", "/usr")
    folders = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *system]
    folders = [*map(Path, folders), _absolute(cache_dir()), _absolute(run_folder)]
    return path.suffix in (".py", ".pyc", ".so") or any(
        path.is_relative_to(f) for f in folders if not here.is_relative_to(f)
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def weights_parts(pretrained: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The pretrained weights that a run began with, by their sources in its record.

    Files, and folders of runs, beneath the folder that this process works in have places in a
    bundle, if the source is relative to it; others, and those of the hub, are named, with their
    SHA-256. Of a run, what it reads
    while it is built is read now, so that `watch_files` finds it.
    """
    parts, here = [], Path.cwd()
    for one in pretrained:
        source, places = one["source"], {}
        files = [_absolute(path) for path in _weights_files(source)]
        name = Path(source).name if Path(source.removeprefix(RUN)).is_absolute() else source
        if name == source and all(path.is_relative_to(here) for path in files):
            places = {f"{FILES}/{path.relative_to(here)}": path for path in files}
        how = f"SHA-256 {one['sha256']}" + (f", put it into {FILES}/" if places else "")
        parts.append(Part(f"pretrained weights {name}", places, how))
    return parts


def _weights_files(source: str) -> list[Path]:
    """The files of a source of weights; none of one of the hub, or that is not found."""
    if source.startswith(PREFIX):
        return []
    path = Path(source).expanduser()
    if source.startswith(RUN):
        try:
            path = find(source.removeprefix(RUN), Path("runs"))
            recorded(path)
        except Error:
            return []
        return [file for file in path.rglob("*") if file.is_file()]
    return [path] if path.is_file() else [file for file in path.glob("*") if file.is_file()]


def within(parts: list[Part], most: int) -> list[Part]:
    """The parts that together have at most `most` bytes: files that are nowhere else come first.

    Of prepared datasets all or none, as they are looked for in one folder.
    """
    taken: list[Part] = []
    parts = [part for part in parts if part.files]
    for part in sorted(parts, key=lambda part: (not _is_in(part, FILES), part.nbytes)):
        if sum(p.nbytes for p in taken) + part.nbytes <= most:
            taken.append(part)
    if any(_is_in(part, PREPARED) for part in parts if part not in taken):
        taken = [part for part in taken if not _is_in(part, PREPARED)]
    return taken


def _is_in(part: Part, folder: str) -> bool:
    """Whether the files of a part are in this folder of a bundle."""
    return any(place.startswith(f"{folder}/") for place in part.files)
