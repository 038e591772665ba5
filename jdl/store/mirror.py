"""Mirror: the backup of a run's folder in object storage (S3, GCS), for machines that lose theirs.

A run writes to its own disk. After each checkpoint a thread copies what is new to the mirror, and
where the run's folder is gone, it is brought back from there. fsspec opens what the URL names.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any

from jdl.config import Options
from jdl.parallel import processes
from jdl.store import manifest
from jdl.store.folder import new_folder
from jdl.types import Error

CHECKPOINTS = "checkpoints"
OWN = (CHECKPOINTS, "damaged", "lock")  # of the folder: copied otherwise, or of this machine alone
LINKS = ".mirror"  # hard links to checkpoints that are being copied: a run may remove its own
CLOSE_SECONDS = 300.0  # for the last copy, at the end of a training


@dataclass(frozen=True)
class Mirror:
    """The copy of a run's folder in object storage, or in another file system of fsspec."""

    fs: Any  # fsspec's
    place: str  # the path in it that stands for `folder`
    folder: Path
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)  # size and time of each file

    def push(self, checkpoints: Path) -> None:
        """Copies what is new: the logs and the other small files, then the checkpoints.

        A checkpoint's manifest comes last: one without is incomplete. The logs come before, so that
        they always reach as far as the newest checkpoint that is whole there. What was removed here
        is removed there at the end; what is newer there, of a training that is lost, at once.
        """
        here, names = _complete(checkpoints), self._names()
        there = {int(step) for step in map(_step, names) if step}
        if not here:
            return
        for step in there:
            if step > here[0]:
                self._remove(step, names)
        for path in _small_files(self.folder):
            self._put(path, path.relative_to(self.folder).as_posix())
        for step in here:
            self._push_checkpoint(checkpoints / str(step), names)
        for step in there.difference(here):
            if step < here[0]:
                self._remove(step, names)

    def _push_checkpoint(self, checkpoint: Path, names: list[str]) -> None:
        own, name = checkpoint / manifest.NAME, f"{CHECKPOINTS}/{checkpoint.name}"
        last = f"{name}/{manifest.NAME}"
        if last in names and self.fs.cat_file(f"{self.place}/{last}") == own.read_bytes():
            return
        self._remove(int(checkpoint.name), names)  # what a kill left, or another training's
        paths = [path for path in checkpoint.rglob("*") if path.is_file() and path != own]
        for path in [*sorted(paths), own]:
            self._put(path, f"{name}/{path.relative_to(checkpoint).as_posix()}")

    def _remove(self, step: int, names: list[str]) -> None:
        """Removes a checkpoint, its manifest first."""
        name = f"{CHECKPOINTS}/{step}"
        if (first := f"{name}/{manifest.NAME}") in names:
            self.fs.rm_file(f"{self.place}/{first}")
        if any(_step(other) == str(step) and other != first for other in names):
            self.fs.rm(f"{self.place}/{name}", recursive=True)

    def _put(self, path: Path, name: str) -> None:
        """Copies a file to the mirror, unless this process has and it is as it was."""
        now = (path.stat().st_size, path.stat().st_mtime_ns)
        if self._sent.get(name) == now and not name.startswith(CHECKPOINTS):
            return
        target = f"{self.place}/{name}"
        if getattr(self.fs, "local_file", False):  # not atomic, as an object's writing is
            self.fs.put_file(str(path), f"{target}.part")
            self.fs.mv(f"{target}.part", target)
        else:
            self.fs.put_file(str(path), target)
        self._sent[name] = now

    def pull(self) -> None:
        """Brings the folder back: all files but those of checkpoints without a manifest.

        Does nothing where the mirror has no whole checkpoint: the run begins anew. Raises `Error`
        where each is damaged; a damaged one beside an intact one is left to the run's start.
        """
        with self._report("read"):
            names = self._names()
        ends = f"/{manifest.NAME}"
        whole = {_step(name) for name in names if name.endswith(ends) and name.count("/") == 2}
        if not whole - {""}:
            return
        with new_folder(self.folder) as temporary:
            for name in names:
                if name.partition("/")[0] != CHECKPOINTS or _step(name) in whole:
                    self._get(name, temporary / name)
            damages = [
                manifest.damage(temporary / CHECKPOINTS / str(step))
                for step in _complete(temporary / CHECKPOINTS)
            ]
            if all(damages):
                raise Error(
                    f"The mirror {self.place} has no intact checkpoint: in the newest "
                    f"{damages[0]}. Restore the object, or use --fresh to start again."
                )

    def check_not_ahead(self) -> None:
        """Raises `Error` where the mirror has a later checkpoint, which training would remove."""
        with self._report("read"):
            ends = f"/{manifest.NAME}"
            names = [name for name in self._names() if name.endswith(ends)]
        there = [int(step) for step in map(_step, names) if step]
        here = _complete(self.folder / CHECKPOINTS)
        if there and max(there) > max(here, default=-1):
            raise Error(
                f"The mirror {self.place} has a checkpoint of step {max(there):,}, later than "
                f"all of {self.folder}: move that folder away to go on from the mirror, or use "
                "--fresh."
            )

    def _get(self, name: str, path: Path) -> None:
        """Copies a file from the mirror."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._report("read"):
            self.fs.get_file(f"{self.place}/{name}", str(path))

    def check(self) -> None:
        """Raises `Error` where nothing can be written and removed there; tries it."""
        name = f".jdl-{os.getpid()}"
        with self._report("written"), NamedTemporaryFile() as file:
            self._put(Path(file.name), name)
            self.fs.rm_file(f"{self.place}/{name}")

    def move_aside(self) -> None:
        """Moves an earlier run to seed<k>.1, seed<k>.2, ..., as --fresh does with a folder."""
        with self._report("written"):
            if names := self._names():
                others = (f"{self.place}.{number}" for number in count(1))
                free = next(other for other in others if not self.fs.find(other))
                for name in names:
                    self.fs.cp_file(f"{self.place}/{name}", f"{free}/{name}")
                self.fs.rm(self.place, recursive=True)

    def _names(self) -> list[str]:
        """The files of the run there, by their paths in its folder."""
        self.fs.invalidate_cache()
        return [name.removeprefix(f"{self.place}/") for name in self.fs.find(self.place)]

    @contextmanager
    def _report(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a library of some protocol, whatever it raises
            raise Error(
                f"The mirror {self.place} cannot be {done}: {_described(error)}. Is its URL right, "
                "are there credentials, and may they list, read, write and delete there?"
            ) from error


def _step(name: str) -> str:
    """The step of the checkpoint that a file belongs to; an empty text where it is of none."""
    parts = name.split("/")
    return parts[1] if parts[0] == CHECKPOINTS and len(parts) > 2 and parts[1].isdigit() else ""


def _complete(checkpoints: Path) -> list[int]:
    """The steps of the complete checkpoints of a folder, the newest first."""
    paths = (path for path in checkpoints.glob("*") if path.name.isdigit())
    return sorted((int(path.name) for path in paths if manifest.is_complete(path)), reverse=True)


def _small_files(folder: Path) -> list[Path]:
    """The files of a run's folder but the checkpoints', the lock, and hidden ones."""
    names = {path: path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    return sorted(
        path
        for path, parts in names.items()
        if parts[0] not in OWN and not any(part.startswith(".") for part in parts)
    )


def _described(error: Exception) -> str:
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line[:300]}".rstrip(".: ")


def open_mirror(folder: Path, options: Options) -> Mirror | None:
    """The mirror of a run's folder; None without --mirror, and in all processes but the first.

    Where there is no folder, it is brought back, unless the run is to begin anew. A collective: the
    processes wait for the first. Raises `Error` where a library is missing, or the mirror cannot be
    written or read.
    """
    opened = list[Mirror]()

    def open_in_first() -> None:
        if options.mirror and processes.is_first():
            fs, place = _file_system(options.mirror)
            run = folder.relative_to(options.root).as_posix()
            opened.append(mirror := Mirror(fs, f"{place.rstrip('/')}/{run}", folder))
            mirror.check()
            if not options.fresh:
                mirror.check_not_ahead() if folder.exists() else mirror.pull()

    processes.together(open_in_first)
    return opened[0] if opened else None


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    if find_spec("fsspec") is None:
        raise Error("--mirror needs fsspec: pip install 'jdl[mirror]'.")
    from fsspec.core import split_protocol, url_to_fs

    is_local = split_protocol(url)[0] in (None, "file", "local")
    try:
        return url_to_fs(url, **({"auto_mkdir": True} if is_local else {}))
    except ImportError as error:
        raise Error(
            f"--mirror {url} needs the library of its protocol ({_described(error)}): "
            "pip install 'jdl[mirror]' has s3fs, for S3; gs:// needs gcsfs."
        ) from error
    except Exception as error:
        raise Error(f"--mirror {url} cannot be opened: {_described(error)}.") from error


class BackgroundMirror:
    """Copies a run's folder to its mirror in a thread: training neither waits for it nor fails.

    What fails is tried again at the next checkpoint, and there is one warning. Where copying takes
    longer than training from one checkpoint to the next, only the newest one waits.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self._problem = mirror, ""
        self._waiting = Queue[tuple[Path, bool]](1)  # the checkpoints to copy; whether they end it
        self._numbers, self._links = count(), mirror.folder / LINKS
        shutil.rmtree(self._links, ignore_errors=True)  # left by a kill
        self._thread = Thread(target=self._copy, name="jdl-mirror", daemon=True)
        self._thread.start()

    def hand_over(self, last: bool = False) -> None:
        """Has the checkpoints copied that are there now, while none is being removed."""
        checkpoints = self._mirror.folder / CHECKPOINTS
        with suppress(Empty):
            self._drop(self._waiting.get_nowait()[0])
        links = self._links / str(next(self._numbers))
        try:
            shutil.copytree(checkpoints, links, copy_function=os.link)
        except (
            OSError
        ):  # a disk without hard links: copied from the run's own, while they are there
            self._drop(links)
            links = checkpoints
        self._waiting.put((links, last))

    def close(self) -> None:
        """Copies what is new at the end of a training, and waits for it, CLOSE_SECONDS at most."""
        self.hand_over(last=True)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._problem = f"the last copy has not ended within {CLOSE_SECONDS:.0f} s"
        if self._problem:
            self._warn("is behind the run's folder", "The same command brings it up")

    def _drop(self, links: Path) -> None:
        if links.parent == self._links:
            shutil.rmtree(links, ignore_errors=True)

    def _copy(self) -> None:
        """What the thread does."""
        last = has_warned = False
        while not last:
            checkpoints, last = self._waiting.get()
            try:
                self._mirror.push(checkpoints)
                self._problem = ""
            except Exception as error:  # of a library, whatever it raises
                self._problem = _described(error)
                if not last and not has_warned:
                    has_warned = True
                    self._warn("could not be written", "It is tried again at each checkpoint")
            self._drop(checkpoints)
        shutil.rmtree(self._links, ignore_errors=True)

    def _warn(self, what: str, then: str) -> None:
        with suppress(Warning):  # where warnings are errors, this one stops no run either
            warnings.warn(
                f"The mirror {self._mirror.place} {what}: {self._problem}. {then}; the run itself "
                "is whole.",
                stacklevel=3,
            )
