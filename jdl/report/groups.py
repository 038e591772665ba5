"""The runs of a report, read from their folders: in groups of one config, which differ by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jdl.config import flat_config
from jdl.store.catalog import Entry, matching_runs, read_entries
from jdl.store.folder import read_json
from jdl.types import Error

LONGEST = 60  # characters of a name of a config


@dataclass(frozen=True)
class RunFacts:
    """What the folder of a run says of it: its entry in the catalog, and its summary."""

    entry: Entry
    summary: dict[str, Any]  # empty where the run did not come to its end

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.entry.folder

    @property
    def lines(self) -> Sequence[dict[str, Any]]:
        """The lines of the run's metrics."""
        return self.entry.lines

    @property
    def record(self) -> dict[str, Any]:
        """The run's record."""
        return self.entry.record

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.entry.record["seed"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The fields of the config; those of a part of it as part.field."""
        return flat_config(self.record["config"])

    @property
    def step(self) -> int:
        """The last step that was logged or saved."""
        return max([self.entry.step, *(line["step"] for line in self.lines[-1:])])

    @property
    def status(self) -> str:
        """Finished, running or stopped; or failed, where the last numbers are not finite."""
        last = {line["split"]: line for line in self.lines}
        lost = any(line.get("loss", 0.0) is None for line in last.values())
        if self.entry.status == "stopped" and None in last.get("train", {}).values():
            lost = True
        if self.entry.status in ("stopped", "finished") and lost:
            return "failed"
        return self.entry.status

    def final(self, split: str) -> dict[str, float]:
        """The metrics of the last evaluation of a split, or of the last logged training step."""
        line: dict[str, Any] = next(
            (line for line in reversed(self.lines) if line["split"] == split), {}
        )
        numbers = {k: v for k, v in line.items() if k not in ("step", "split")}
        return {name: float(v) for name, v in numbers.items() if isinstance(v, int | float)}


@dataclass(frozen=True)
class Group:
    """The runs of one config, by seed."""

    name: str  # the experiment's, with the fields in which configs of that name differ
    runs: Sequence[RunFacts] = field(repr=False)

    @property
    def first(self) -> RunFacts:
        """The run that stands for the config."""
        return self.runs[0]

    @property
    def finished(self) -> list[RunFacts]:
        """The runs that came to their end."""
        return [run for run in self.runs if run.status == "finished"]


def read_groups(names: Sequence[str], root: Path) -> tuple[list[Group], list[str]]:
    """The runs of these names, as in `jdl runs`, or in these folders, in groups of one config.

    Without names they are all runs under `root`. A run that cannot be read costs no other one: the
    second result says why it is left out. Raises `Error` where a name has no run that can be read.
    """
    found: dict[Path, RunFacts] = {}
    problems: dict[str, None] = {}
    for name in names or [""]:
        entries, errors = _entries(name, root)
        runs = []
        for one in entries:
            try:
                runs.append(RunFacts(one, _summary(one.folder)))
            except Error as error:
                errors.append(str(error))
        if not runs:
            missing = f"is no run {name!r}" if name else "are no runs"
            why = "jdl runs lists all, --root is their folder."
            raise Error("\njdl: ".join([f"There {missing} under {root}: {why}", *errors]))
        found |= {run.folder.resolve(): run for run in runs}
        problems |= dict.fromkeys(errors)
    return group_runs(list(found.values())), list(problems)


def _entries(name: str, root: Path) -> tuple[list[Entry], list[str]]:
    """The runs of a name under `root`, or else those in a folder; and errors."""
    folder = Path(name)
    if name and (folder / "run.json").is_file():
        entries, errors = read_entries([folder])
        return entries, list(errors.values())
    entries, problems = matching_runs(name, root)
    if entries or problems or not name:
        return _not_aside(entries), problems
    entries, errors = read_entries(path.parent for path in records(folder))
    return _not_aside(entries), list(errors.values())


def records(folder: Path) -> list[Path]:
    """The records of the runs in a folder: itself a run, one config, an experiment, or a root."""
    return sorted(path for n in range(4) for path in folder.glob("*/" * n + "run.json"))


def _not_aside(entries: Sequence[Entry]) -> list[Entry]:
    """The runs besides those that --fresh moved aside, as seed0.1."""
    return [one for one in entries if not one.folder.suffix]


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def group_runs(runs: Sequence[RunFacts]) -> list[Group]:
    """The runs in groups of one name and digest, sorted by seed."""
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault((run.entry.name, run.record["digest"]), []).append(run)
    names = _names(groups)
    return [
        Group(names[key], sorted(found, key=lambda run: (run.seed, run.folder)))
        for key, found in groups.items()
    ]


def _names(groups: Mapping[tuple[str, str], Sequence[RunFacts]]) -> dict[tuple[str, str], str]:
    """A name for each group: by the fields that differ if they are few, or else by its digest."""
    names: dict[tuple[str, str], str] = {}
    for name in {name for name, _ in groups}:
        configs = {key: found[0].config for key, found in groups.items() if key[0] == name}
        fields = differing_fields(list(configs.values()))
        told = {
            key: ", ".join([name, *(f"{field}={config.get(field)}" for field in fields)])
            for key, config in configs.items()
        }
        clear = len(set(told.values())) == len(told) and max(map(len, told.values())) <= LONGEST
        names |= told if clear else {key: "/".join(key) for key in configs}
    return names


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which configs differ, besides the seed."""
    fields = dict.fromkeys(field for config in configs for field in config if field != "seed")
    return [f for f in fields if len({repr(config.get(f)) for config in configs}) > 1]
