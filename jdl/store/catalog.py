"""The catalog of runs: all runs under a root folder, with their progress, and a find by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from jdl.numbers import number_text
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
    metric: str  # that `Run.best` names
    best: float | None  # its best value so far
    lines: Sequence[dict[str, Any]] = field(default=(), repr=False)  # of its metrics

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.record["config"]["name"]

    def __str__(self) -> str:
        best = "" if self.best is None else f"  {self.metric} {number_text(self.best)}"
        total = self.record["config"]["steps"]
        return f"{self.folder}  {self.status}, step {self.step:,} of {total:,}{best}"


def all_runs(root: Path) -> tuple[list[Entry], dict[Path, str]]:
    """The runs under `root`, sorted by folder; and by folder why the others cannot be read."""
    return read_entries(path.parent for path in sorted(root.glob("*/*/*/run.json")))


def read_entries(folders: Iterable[Path]) -> tuple[list[Entry], dict[Path, str]]:
    """The entries of the runs in folders; and by folder why the others cannot be read."""
    entries: list[Entry] = []
    errors: dict[Path, str] = {}
    for folder in folders:
        try:
            entries.append(entry(folder))
        except Error as error:
            errors[folder] = str(error)
    return entries, errors


def matching_runs(name: str, root: Path) -> tuple[list[Entry], list[str]]:
    """The runs of a name, and errors for those that cannot be read.

    A name is as in `find`; or a pattern of name/digest/seed<k>, as `cnn/*/seed0`. All runs have the
    name "".
    """
    entries, errors = all_runs(root)
    if name:
        entries = [
            one
            for one in entries
            if _matches(one.folder.relative_to(root), name, one.name, one.record["digest"])
        ]
        places = {folder: folder.relative_to(root) for folder in errors}
        errors = {k: v for k, v in errors.items() if _matches(places[k], name, *places[k].parts)}
    return entries, list(errors.values())


def _matches(place: Path, name: str, experiment: str, digest: str, *_: str) -> bool:
    path, name = place.as_posix(), name.strip("/")
    names = (experiment, digest, f"{experiment}/{digest}")
    return name in names or f"{path}/".startswith(f"{name}/") or fnmatch(path, name)


def entry(folder: Path) -> Entry:
    """The entry of the run in a folder; `Error` where it holds no run."""
    record = read_record(folder)
    total, (mode, metric) = record["config"]["steps"], record["best"].split()
    paths = [path for path in folder.glob("checkpoints/*") if path.name.isdigit()]
    step = max((int(path.name) for path in paths if manifest.is_complete(path)), default=0)
    lines = log.read(folder)
    chosen = choosing_split(line["split"] for line in lines if metric in line)
    evaluated = [line.get(metric) for line in lines if line["split"] == chosen]
    values = [value for value in evaluated if isinstance(value, int | float)]
    best = (max if mode == "max" else min)(values, default=None)
    now = status(folder, step, total)
    return Entry(folder, record, step, now, metric, best, lines)


def choosing_split(splits: Iterable[str]) -> str:
    """Of the splits with a metric the one that chooses the best checkpoint: valid, or the first."""
    found = dict.fromkeys(split for split in splits if split != "train")
    return "valid" if "valid" in found else next(iter(found), "")


def status(folder: Path, step: int, total: int) -> str:
    """Whether the run in a folder is running, finished or stopped, at this step of so many."""
    finished = step >= total or (folder / "summary.json").exists()
    return "running" if is_locked(folder) else "finished" if finished else "stopped"


def shorter_run(folder: Path, config: dict[str, Any]) -> Path | None:
    """The longest finished run beside a new one, with its config and seed but fewer steps."""

    def without_steps(values: dict[str, Any]) -> dict[str, Any]:
        return {name: v for name, v in values.items() if name not in ("steps", "epochs")}

    found = dict[int, Path]()
    for place in folder.parents[1].glob(f"*/{folder.name}"):
        try:
            other = read_record(place)["config"]
        except Error:  # what cannot be read is not this run's matter
            continue
        steps = other["steps"]
        is_shorter = steps < config["steps"] and without_steps(other) == without_steps(config)
        if is_shorter and manifest.is_complete(place / "checkpoints" / str(steps)):
            found[steps] = place
    return found[max(found)] if found else None


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
    if (Path(name) / "run.json").is_file():
        return Path(name)
    fitting = [run.folder for run in matching_runs(name, root)[0]]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise Error(
            f"There is no run {name!r} under {root}: `jdl runs` lists all runs, and --root chooses "
            "another folder."
        )
    folders = ", ".join(str(folder) for folder in fitting)
    raise Error(f"{name!r} matches {len(fitting)} runs, name one of them: {folders}.")


def find_group(name: str, root: Path) -> list[Path]:
    """The folders of the runs of one config, all its seeds, or of all that fit a pattern with *.

    A name is a path, also of the folder that has the seeds, or as in `find`; a pattern is of
    name/digest/seed<k>, as `cnn/*/seed0`. Raises `Error` where no run fits, or where runs of
    several configs do and the name is no pattern.
    """
    if (Path(name) / "run.json").is_file():
        return [Path(name)]
    if seeds := [path.parent for path in Path(name).glob("seed*/run.json")]:
        return sorted(seed for seed in seeds if not seed.suffix)  # seed0.1 was moved aside
    runs, _ = matching_runs(name, root)
    if not runs:
        raise Error(f"There is no run {name!r} under {root}: `jdl runs` lists all runs.")
    configs = sorted({f"{run.name}/{run.record['digest']}" for run in runs})
    if len(configs) > 1 and "*" not in name:
        raise Error(f"{name!r} are runs of {len(configs)} configs, name one: {', '.join(configs)}.")
    return [run.folder for run in runs]
