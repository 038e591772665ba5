"""The runs of a report, read from their folders: in groups of one config, which differ by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jdl.config import flat_config
from jdl.store.catalog import Entry, entry, matching_runs
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


def read_groups(names: Sequence[str], root: Path) -> list[Group]:
    """The runs of these names, as in `jdl runs`, or of these folders, in groups of one config.

    Without names they are all runs under `root`. Raises `Error` where a name has no run, or a run
    cannot be read.
    """
    found: dict[Path, Entry] = {}
    for name in names or [""]:
        fitting = _entries(name, root)
        if not fitting:
            missing = f"is no run {name!r}" if name else "are no runs"
            raise Error(
                f"There {missing} under {root}: jdl runs lists all, --root is their folder."
            )
        found |= {one.folder.resolve(): one for one in fitting}
    return group_runs([RunFacts(one, _summary(one.folder)) for one in found.values()])


def _entries(name: str, root: Path) -> list[Entry]:
    if name and (Path(name) / "run.json").is_file():
        return [entry(Path(name))]
    entries, errors = matching_runs(name, root)
    if errors and not name:
        raise Error("\njdl: ".join(errors))
    return entries


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def group_runs(runs: Sequence[RunFacts]) -> list[Group]:
    """The runs in groups of one name and digest, sorted by seed."""
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        if run.folder.suffix:  # moved aside by --fresh
            continue
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
