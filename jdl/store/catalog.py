"""The catalog of runs: all runs under a root folder, with their progress, and a find by name."""

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
    """An entry of the catalog: record, progress and status of a run, read from its folder."""

    folder: Path
    record: dict[str, Any]
    step: int  # of the newest checkpoint
    status: str  # running, finished or stopped
    best: str  # name and best value of the metric that `Run.best` names

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.record["config"]["name"]


def all_runs(root: Path) -> tuple[list[Entry], list[str]]:
    """The runs under `root`, sorted by folder; and errors for those that cannot be read."""
    entries: list[Entry] = []
    errors: list[str] = []
    for path in sorted(root.glob("*/*/*/run.json")):
        try:
            entries.append(entry(path.parent))
        except Error as error:
            errors.append(str(error))
    return entries, errors


def entry(folder: Path) -> Entry:
    """The entry of the run in a folder; `Error` where it holds no run."""
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


def check_finished(folder: Path, anyway: bool, verb: str) -> None:
    """Raises `Error` where the run in a folder is not finished, unless `anyway`."""
    found = entry(folder)
    if found.status != "finished" and not anyway:
        raise Error(
            f"{folder} is not finished, but {found.status} at step {found.step:,} of "
            f"{found.record['config']['steps']:,}: train it to its end, or {verb} it --anyway."
        )


def find(name: str, root: Path) -> Path:
    """The folder of a run, by its path or by its name under `root`.

    A name is that of the experiment, the config digest, name/digest or name/digest/seed<k>. Raises
    `Error` where no run matches, or more than one, which it lists.
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
            f"There is no run {name!r} under {root}: `jdl runs` lists all runs, and --root chooses "
            "another folder."
        )
    folders = ", ".join(str(folder) for folder in fitting)
    raise Error(f"{name!r} matches {len(fitting)} runs, name one of them: {folders}.")
