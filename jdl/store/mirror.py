"""Mirror: the backup of a run's folder in object storage (S3, GCS), for machines that lose theirs.

A run writes to its own disk. After each checkpoint a thread copies what is new to the mirror, and
where the run's folder is gone, it is brought back from there. fsspec opens what the URL names.
"""

from __future__ import annotations

import json
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
from jdl.errors import first_line
from jdl.parallel import processes
from jdl.store import manifest
from jdl.store.folder import DISK_FULL, DiskError, new_folder
from jdl.types import Error

CHECKPOINTS = "checkpoints"
NOT_SMALL = (CHECKPOINTS, manifest.DAMAGED, "lock")  # copied otherwise, or of this machine alone
SNAPSHOTS = ".mirror"  # hard links to checkpoints that are being copied: a run may delete its own
TEMPORARY = ".jdl-"  # begins the names of files that a kill may leave in the mirror
CLOSE_SECONDS = 300.0  # for the last copy, at the end of a training


@dataclass(frozen=True)
class Mirror:
    """The copy of a run's folder in object storage, or in another file system of fsspec."""

    fs: Any  # fsspec's
    prefix: str  # the path in it that stands for `folder`
    folder: Path
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)  # size and time, by name

    def push(self, checkpoints: Path) -> None:
        """Copies what is new: the logs and the other small files, then the checkpoints.

        The logs come first, so that they always reach as far as the mirror's newest complete
        checkpoint. What is gone here is removed there at the end, but never a file of the run
        folder's top level, as logs are, nor a checkpoint that was damaged here; checkpoints later
        than all here, which are of a training that is lost, at once. `checkpoints` is the run's own
        folder of them, or a snapshot.
        """
        local, names, small = _complete(checkpoints), self._names(), _small_files(self.folder)
        if not local:
            return
        remote = _steps(names)
        for step in remote:
            if step > local[0]:
                self._remove(step)
        for name, path in small.items():
            self._push_small(name, path, names)
        copied = {step for step in local if self._push_checkpoint(checkpoints / str(step), names)}
        for step in remote - copied - _damaged(self.folder):
            if step < max(copied, default=0):
                self._remove(step)
        for name in names - small.keys():
            if _step(name) is None and ("/" in name or _is_temporary(name)):
                self.fs.rm_file(f"{self.prefix}/{name}")

    def _push_small(self, name: str, path: Path, names: set[str]) -> None:
        """Copies a file, unless it is there and is as it was when this process copied it."""
        version = (path.stat().st_size, path.stat().st_mtime_ns)
        if name not in names or self._sent.get(name) != version:
            self._put(path, name)
            self._sent[name] = version

    def _push_checkpoint(self, checkpoint: Path, names: set[str]) -> bool:
        """Copies what the checkpoint's manifest lists, and the manifest last.

        False where a file is missing: training has deleted the checkpoint meanwhile.
        """
        folder, files = f"{CHECKPOINTS}/{checkpoint.name}", [manifest.NAME]
        last = f"{folder}/{manifest.NAME}"
        try:
            content = (checkpoint / manifest.NAME).read_bytes()
            if last in names and self.fs.cat_file(f"{self.prefix}/{last}") == content:
                return True
            self._remove(int(checkpoint.name))  # what a kill left, or another training's
            files = [*json.loads(content), manifest.NAME]
            for file in files:
                self._put(checkpoint / file, f"{folder}/{file}")
        except FileNotFoundError:
            if all((checkpoint / file).is_file() for file in files):
                raise  # it is the mirror's
            return False
        return True

    def _remove(self, step: int) -> None:
        """Removes a checkpoint if it is there, its manifest first."""
        folder = f"{self.prefix}/{CHECKPOINTS}/{step}"
        if self.fs.exists(f"{folder}/{manifest.NAME}"):
            self.fs.rm_file(f"{folder}/{manifest.NAME}")
        if self.fs.exists(folder):
            self.fs.rm(folder, recursive=True)

    def _put(self, path: Path, name: str) -> None:
        """Copies a file to the mirror, atomically."""
        target = f"{self.prefix}/{name}"
        if getattr(self.fs, "local_file", False):  # unlike an object, a file may be half written
            parent, _, base = target.rpartition("/")
            self.fs.put_file(str(path), temporary := f"{parent}/{TEMPORARY}{base}")
            self.fs.mv(temporary, target)
        else:
            self.fs.put_file(str(path), target)

    def pull(self) -> None:
        """Brings the folder back: all files but those of checkpoints without a manifest.

        Does nothing where the mirror has no complete checkpoint: the run begins anew. Raises
        `Error` where none is intact; a damaged one beside an intact one is left to the run's start.
        """
        with self._report("read"):
            names = self._names()
        complete = _complete_steps(names)
        if not complete:
            return
        kept = {None, *complete}
        with new_folder(self.folder) as temporary:
            for name in names:
                if _step(name) in kept and not _is_temporary(name):
                    self._get(name, temporary / name)
            damages = [
                manifest.damage(temporary / CHECKPOINTS / str(step))
                for step in sorted(complete, reverse=True)
            ]
            if all(damages):
                raise Error(
                    f"The mirror {self.prefix} has no intact checkpoint: in the newest "
                    f"{damages[0]}. Restore the object, or use --fresh to start again."
                )

    def check_not_ahead(self) -> None:
        """Raises `Error` where the mirror has a later checkpoint than all intact ones here.

        Training would go on from an older one, and remove that of the mirror.
        """
        with self._report("read"):
            newest = max(_complete_steps(self._names()), default=-1)
        checkpoints = self.folder / CHECKPOINTS
        here = [checkpoints / str(step) for step in _complete(checkpoints) if step >= newest]
        damages = [manifest.damage(path) for path in here]
        if newest >= 0 and all(damages):
            which = f"all intact ones of {self.folder}" if damages else f"all of {self.folder}"
            damaged = f" ({here[0]} is damaged: {damages[0]})" if damages else ""
            raise Error(
                f"The mirror {self.prefix} has a checkpoint of step {newest:,}, later than {which}"
                f"{damaged}: move that folder away to go on from the mirror, or use --fresh."
            )

    def _get(self, name: str, path: Path) -> None:
        """Copies a file from the mirror."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._report("read"):
            self.fs.get_file(f"{self.prefix}/{name}", str(path))

    def check(self) -> None:
        """Raises `Error` where nothing can be written and removed there; tries it."""
        name = f"{TEMPORARY}{os.getpid()}"
        with self._report("written"), NamedTemporaryFile() as file:
            self._put(Path(file.name), name)
            self.fs.rm_file(f"{self.prefix}/{name}")

    def move_aside(self) -> None:
        """Moves an earlier run to seed<k>.1, seed<k>.2, ..., as --fresh does with a folder."""
        with self._report("written"):
            if names := self._names():
                others = (f"{self.prefix}.{number}" for number in count(1))
                free = next(other for other in others if not self.fs.find(other))
                for name in names:
                    self.fs.cp_file(f"{self.prefix}/{name}", f"{free}/{name}")
                self.fs.rm(self.prefix, recursive=True)

    def _names(self) -> set[str]:
        """The files of the run there, by their paths in its folder."""
        self.fs.invalidate_cache()
        return {name.removeprefix(f"{self.prefix}/") for name in self.fs.find(self.prefix)}

    @contextmanager
    def _report(self, done: str) -> Iterator[None]:
        """Turns any exception into an `Error` with advice, for what is "read" or "written"."""
        try:
            yield
        except Exception as error:  # of a library of some protocol, whatever it raises
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                full = self.folder if done == "read" else self.prefix
                raise DiskError(
                    f"The disk of {full} is full: {first_line(error)}. Free some space there, and "
                    "run the same command again."
                ) from error
            raise Error(
                f"The mirror {self.prefix} cannot be {done}: {first_line(error)}. Is its URL "
                "right, are there credentials, and may they list, read, write and delete there?"
            ) from error


def _step(name: str) -> int | None:
    """The step of the checkpoint that a file of the mirror belongs to, if any."""
    parts = name.split("/")
    is_of_one = parts[0] == CHECKPOINTS and len(parts) > 2 and parts[1].isdigit()
    return int(parts[1]) if is_of_one else None


def _steps(names: set[str]) -> set[int]:
    """The steps of all checkpoints in the mirror."""
    return {step for step in map(_step, names) if step is not None}


def _complete_steps(names: set[str]) -> set[int]:
    """The steps of the complete checkpoints in the mirror."""
    return {s for s in _steps(names) if f"{CHECKPOINTS}/{s}/{manifest.NAME}" in names}


def _complete(checkpoints: Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, the newest first."""
    paths = (path for path in checkpoints.glob("*") if path.name.isdigit())
    return sorted((int(path.name) for path in paths if manifest.is_complete(path)), reverse=True)


def _damaged(folder: Path) -> set[int]:
    """The steps of checkpoints that were moved aside as damaged; not of incomplete ones."""
    aside = filter(manifest.is_complete, folder.glob(f"{manifest.DAMAGED}/*"))
    return {int(path.name.partition(".")[0]) for path in aside}


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY)


def _small_files(folder: Path) -> dict[str, Path]:
    """The files of a run's folder by name, but the checkpoints', the lock, and hidden ones.

    It lists no folder of checkpoints, as training may be deleting some.
    """
    tops = (path for path in folder.iterdir() if path.name not in NOT_SMALL)
    shown = (top for top in tops if not top.name.startswith("."))
    paths = (path for top in shown for path in (top, *top.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {name: path for name, path in names.items() if "/." not in name}


def open_mirror(folder: Path, options: Options) -> Mirror | None:
    """The mirror of a run's folder; None without --mirror, and in all processes but the first.

    Where there is no folder, it is brought back, unless the run is to begin anew. A collective: the
    processes wait for the first. Raises `Error` where a library is missing, or the mirror cannot be
    written or read.
    """
    opened = list[Mirror]()

    def open_in_first() -> None:
        if options.mirror and processes.is_first():
            fs, prefix = _file_system(options.mirror)
            run = folder.relative_to(options.root).as_posix()
            opened.append(mirror := Mirror(fs, f"{prefix.rstrip('/')}/{run}", folder))
            mirror.check()
            if not options.fresh:
                if folder.exists():
                    mirror.check_not_ahead()
                else:
                    mirror.pull()

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
            f"--mirror {url} needs the library of its protocol ({first_line(error)}): "
            "pip install 'jdl[mirror]' has s3fs, for S3; gs:// needs gcsfs."
        ) from error
    except Exception as error:
        raise Error(f"--mirror {url} cannot be opened: {first_line(error)}.") from error


class BackgroundMirror:
    """Copies a run's folder to its mirror in a thread: training neither waits for it nor fails.

    What fails is tried again at the next checkpoint, and there is one warning. Where copying takes
    longer than training from one checkpoint to the next, only the newest one waits.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self._problem = mirror, ""
        self._waiting = Queue[tuple[Path, bool]](1)  # checkpoints to copy; whether they are last
        self._numbers, self._snapshots = count(), mirror.folder / SNAPSHOTS
        shutil.rmtree(self._snapshots, ignore_errors=True)  # left by a kill
        self._thread = Thread(target=self._copy, name="jdl-mirror", daemon=True)
        self._thread.start()

    def enqueue(self, last: bool = False) -> None:
        """Has the checkpoints copied that are there now, while none is being deleted."""
        with suppress(Empty):
            self._delete_snapshot(self._waiting.get_nowait()[0])
        self._waiting.put((self._snapshot(), last))

    def close(self) -> None:
        """Copies what is new at the end of a training, and waits for it, CLOSE_SECONDS at most."""
        self.enqueue(last=True)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._problem = f"the last copy has not ended within {CLOSE_SECONDS:.0f} s"
        if self._problem:
            self._warn("is behind the run's folder", "The same command brings it up")

    def _snapshot(self) -> Path:
        """A folder of hard links to the checkpoints; where they fail, that of the checkpoints."""
        checkpoints = self._mirror.folder / CHECKPOINTS
        snapshot = self._snapshots / str(next(self._numbers))
        try:
            shutil.copytree(checkpoints, snapshot, copy_function=os.link)
        except OSError:
            self._delete_snapshot(snapshot)
            return checkpoints
        return snapshot

    def _delete_snapshot(self, checkpoints: Path) -> None:
        if checkpoints.parent == self._snapshots:
            shutil.rmtree(checkpoints, ignore_errors=True)

    def _copy(self) -> None:
        """What the thread does."""
        last = has_warned = False
        while not last:
            checkpoints, last = self._waiting.get()
            try:
                self._mirror.push(checkpoints)
                self._problem = ""
            except Exception as error:  # of a library, whatever it raises
                self._problem = first_line(error)
                if not last and not has_warned:
                    has_warned = True
                    self._warn("could not be written", "It is tried again at each checkpoint")
            self._delete_snapshot(checkpoints)
        shutil.rmtree(self._snapshots, ignore_errors=True)

    def _warn(self, what: str, then: str) -> None:
        with suppress(Warning):  # where warnings are errors, this one stops no run either
            warnings.warn(
                f"The mirror {self._mirror.prefix} {what}: {self._problem}. {then}; the run itself "
                "is not affected.",
                stacklevel=3,
            )
