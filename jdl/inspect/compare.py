"""Two runs held against each other, to the bit: what they are, and the first step and leaf in which they differ."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jdl.learners.skip_nonfinite import WATCHED
from jdl.store import log
from jdl.config import Options, difference, digest
from jdl.store.step_trace import read_leaves, read_trace
from jdl.train.experiment import recorded
from jdl.train.fit import RECORDED, fit
from jdl.store.folder import bits_hang_on, path_of, read_record
from jdl.train.preemption import PausedError
from jdl.types import Error


@dataclass
class Comparison:
    """What is told of two runs, a line each, and the first step in which their numbers differ, if there is one."""

    lines: list[str] = field(default_factory=list)
    first: int | None = None

    def tell(self, subject: str, text: str) -> None:
        """Adds a line."""
        self.lines.append(f"{subject:<12} {text}")

    def differ(self, step: int) -> None:
        """Takes note of a step that differs."""
        self.first = step if self.first is None else min(step, self.first)


def compare(there: Path, here: Path) -> Comparison:
    """Holds the records, metrics, steps and states of two runs against each other; nothing is computed.

    "There" is the first in what is told, "here" the second. Raises `Error` where a folder is no run's, or has no trace.
    """
    found = Comparison()
    old, new = (read_record(folder) for folder in (there, here))
    for name in ("config", "data"):
        found.tell(name, difference(old[name], new[name]) or "equal")
    found.tell("environment", difference(bits_hang_on(old), bits_hang_on(new)) or "equal")
    _metrics(found, there, here)
    _steps(found, there, here)
    _states(found, there, here)
    return found


def _metrics(found: Comparison, there: Path, here: Path) -> None:
    old, new = (
        {(line["step"], line["split"]): line for line in log.read(folder)}
        for folder in (there, here)
    )
    common = [key for key in old if key in new]
    for key in common:
        if old[key] != new[key]:
            found.differ(key[0])
            found.tell(
                "metrics",
                f"differ first at step {key[0]:,}, {key[1]}: {difference(old[key], new[key])}",
            )
            return
    found.tell("metrics", f"{len(common):,} lines equal")


def _steps(found: Comparison, there: Path, here: Path) -> None:
    old, new = (read_trace(folder) for folder in (there, here))
    for folder, trace in ((there, old), (here, new)):
        if not len(trace):
            raise Error(
                f"{folder} has no trace of its steps: it was not trained by this jdl, or has not begun."
            )
    count = min(len(old), len(new))
    known = ~(np.isnan(old[:count]).all(1) | np.isnan(new[:count]).all(1))
    unequal = old[:count].view(np.uint32) != new[:count].view(np.uint32)
    rows = np.flatnonzero(unequal.any(1) & known)
    if not len(rows):
        found.tell("steps", f"{known.sum():,} of {max(len(old), len(new)):,} compared, all equal")
        return
    row = rows[0]
    names = [
        f"{WATCHED[n]} {old[row, n]:.9g} there, {new[row, n]:.9g} here"
        for n in np.flatnonzero(unequal[row])
    ]
    found.differ(int(row) + 1)
    found.tell("steps", f"differ first in step {row + 1:,}: {'; '.join(names)}")


def _states(found: Comparison, there: Path, here: Path) -> None:
    compared, equal = 0, None
    for step, old, new in _common(read_leaves(there), read_leaves(here)):
        names = [
            name
            for name in {**old["leaves"], **new["leaves"]}
            if old["leaves"].get(name) != new["leaves"].get(name)
        ]
        if names:
            found.differ(step)
            how = ", as it was gone on from" if old.get("start") or new.get("start") else ""
            more = (
                f" and {len(names) - 1:,} more of {len(old['leaves']):,} leaves"
                if names[1:]
                else ""
            )
            before = (
                "none before it was recorded"
                if equal is None
                else f"after step {equal:,} all leaves were equal"
            )
            found.tell(
                "states", f"differ first after step {step:,}{how}: {names[0]}{more}; {before}"
            )
            return
        compared, equal = compared + 1, step
    found.tell("states", f"{compared:,} compared, all leaves equal")


def _common(
    old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """The entries of the same steps, each with each, by step."""
    for a in sorted(old, key=lambda entry: entry["step"]):
        for b in new:
            if a["step"] == b["step"]:
                yield a["step"], a, b


def repeat(folder: Path, quiet: bool = False) -> Comparison:
    """Trains a run again from its record, as far as it has come, and compares the two.

    The repetition lies in a folder of its own, which is kept where the two differ. Then it is repeated once more, to
    tell a machine that does not repeat itself from a run that was made otherwise.
    """
    record = read_record(folder)
    run, script = recorded(folder)
    steps = len(read_trace(folder))
    until = None if (folder / "summary.json").exists() else steps
    if not steps:
        raise Error(
            f"{folder} has no trace of its steps: it was not trained by this jdl, or has not begun."
        )

    kept = {name: value for name, value in record["options"].items() if name in RECORDED}

    def again(until: int | None) -> Path:
        options = Options(
            root=Path(tempfile.mkdtemp(prefix="jdl-repeat-")), until=until, quiet=quiet, **kept
        )
        try:
            fit(run, options, script)
        except PausedError as paused:
            if paused.code:
                raise
        return path_of(options.root, run.config)

    second = again(until)
    found = compare(folder, second)
    if digest(run.config) != record["digest"]:
        found.tell(
            "record",
            f"run.json was edited: its config has the digest {digest(run.config)}, not {record['digest']}",
        )
    if found.first is not None:
        itself = compare(second, again(max(1, found.first))).first
        of_itself = (
            "repeats itself to the bit"
            if itself is None
            else f"does not repeat itself: step {itself:,} differs"
        )
        found.tell("this machine", f"{of_itself}; the repetition is in {second}")
    return found
