"""The runs on disk: found, named and told about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdl.store import log, manifest
from jdl.store.folder import read_record
from jdl.store.lock import held
from jdl.types import Error


@dataclass(frozen=True)
class Entry:
    """What a folder tells of its run, without loading any of it."""

    folder: Path
    record: dict[str, Any]
    step: int  # of the newest checkpoint
    status: str  # running, finished or stopped
    best: str  # the best value of the metric that the run is judged by

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.record["config"]["name"]


def all_runs(root: Path) -> tuple[list[Entry], list[str]]:
    """The runs under `root`, by name, digest and seed; and what is wrong with those that cannot be read."""
    found: list[Entry] = []
    wrong: list[str] = []
    for path in sorted(root.glob("*/*/*/run.json")):
        try:
            found.append(entry(path.parent))
        except Error as error:
            wrong.append(str(error))
    return found, wrong


def entry(folder: Path) -> Entry:
    """What there is to tell of one run; `Error` where the folder is none."""
    record = read_record(folder)
    total, (mode, metric) = record["config"]["steps"], record["best"].split()
    steps = [
        int(path.name)
        for path in folder.glob("checkpoints/*")
        if path.name.isdigit() and manifest.sealed(path)
    ]
    step = max(steps, default=0)
    finished = step >= total or (folder / "summary.json").exists()
    status = "running" if held(folder) else "finished" if finished else "stopped"
    lines = [line for line in log.read(folder) if line["split"] != "train"]
    values = [line[metric] for line in lines if isinstance(line.get(metric), int | float)]
    best = f"{metric} {(max if mode == 'max' else min)(values):.4f}" if values else ""
    return Entry(folder, record, step, status, best)


def find(name: str, root: Path) -> Path:
    """The folder of a run, named by its path, or under `root` by name, digest, name/digest or name/digest/seed<k>.

    Raises `Error` where none or more than one fits, and names those that do.
    """
    path = Path(name)
    if (path / "run.json").is_file():
        return path
    fitting = [
        run.folder
        for run in all_runs(root)[0]
        if name.strip("/") in (run.name, run.record["digest"], f"{run.name}/{run.record['digest']}")
        or run.folder.relative_to(root).as_posix().startswith(name.strip("/") + "/")
        or run.folder.relative_to(root).as_posix() == name.strip("/")
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise Error(
            f"There is no run {name!r} under {root}: `jdl runs` lists those there are, --root looks elsewhere."
        )
    raise Error(
        f"{name!r} fits {len(fitting)} runs, name one of them: {', '.join(str(folder) for folder in fitting)}."
    )
