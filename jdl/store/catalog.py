"""The catalog of runs: all that lie under a root, by name, and how far each has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdl.store import log, manifest
from jdl.store.lock import is_locked
from jdl.store.record import read_record
from jdl.types import Error


@dataclass(frozen=True)
class Entry:
    """What a folder says of its run, without restoring a checkpoint."""

    folder: Path
    record: dict[str, Any]
    step: int  # of the newest checkpoint
    status: str  # running, finished or stopped
    best: str  # the name and the best value of the metric that chooses the best checkpoint

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.record["config"]["name"]


def all_runs(root: Path) -> tuple[list[Entry], list[str]]:
    """The runs under `root`, by name, digest and seed; and errors of those that cannot be read."""
    entries: list[Entry] = []
    errors: list[str] = []
    for path in sorted(root.glob("*/*/*/run.json")):
        try:
            entries.append(entry(path.parent))
        except Error as error:
            errors.append(str(error))
    return entries, errors


def entry(folder: Path) -> Entry:
    """The entry of one run; `Error` where the folder is none."""
    record = read_record(folder)
    total, (mode, metric) = record["config"]["steps"], record["best"].split()
    paths = [path for path in folder.glob("checkpoints/*") if path.name.isdigit()]
    step = max((int(path.name) for path in paths if manifest.is_complete(path)), default=0)
    finished = step >= total or (folder / "summary.json").exists()
    status = "running" if is_locked(folder) else "finished" if finished else "stopped"
    lines = [line for line in log.read(folder) if line["split"] != "train"]
    values = [line[metric] for line in lines if isinstance(line.get(metric), int | float)]
    best = f"{metric} {(max if mode == 'max' else min)(values):.4f}" if values else ""
    return Entry(folder, record, step, status, best)


def find(name: str, root: Path) -> Path:
    """The folder of a run, by its path or by its name under `root`.

    Such a name is that of the experiment, its digest, name/digest or name/digest/seed<k>.

    Raises `Error` where none or more than one fits, and names those that do.
    """
    path, name = Path(name), name.strip("/")
    if (path / "run.json").is_file():
        return path
    fitting = []
    for run in all_runs(root)[0]:
        place = run.folder.relative_to(root).as_posix()
        names = (run.name, run.record["digest"], f"{run.name}/{run.record['digest']}", place)
        if name in names or place.startswith(f"{name}/"):
            fitting.append(run.folder)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise Error(
            f"There is no run {name!r} under {root}: `jdl runs` lists those there are, and --root "
            "names another folder."
        )
    folders = ", ".join(str(folder) for folder in fitting)
    raise Error(f"{name!r} fits {len(fitting)} runs, name one of them: {folders}.")
