"""Comparison of two runs, to the bit: records, metrics, first step and array that differ."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from jdl.config import Options, difference, digest
from jdl.learners.skip_nonfinite import CHECKED_METRICS
from jdl.run import Run
from jdl.store import log
from jdl.store.code import FOLDER
from jdl.store.folder import run_folder
from jdl.store.record import (
    RECORDED_OPTIONS,
    had_other_code,
    numerics_environments,
    read_record,
)
from jdl.store.step_trace import read_leaves, read_trace
from jdl.train.experiment import recorded
from jdl.train.fit import fit
from jdl.train.preemption import PausedError
from jdl.types import Error

NAMES = ("in A", "in B")
DIFFERS = "not kept; the compiled step or the initial state differs"


@dataclass
class Comparison:
    """The result of a comparison of two runs: a report, and the first step that differs."""

    lines: list[str] = field(default_factory=list)
    first_difference: int | None = None
    ends: str = ""  # which run ends before the other, and at which step

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if self.first_difference is not None:
            return f"The first difference is in step {self.first_difference:,}."
        if self.ends:
            return f"The runs are equal, to the bit, as far as both have come: {self.ends}."
        return "The runs are equal, to the bit."

    def add(self, subject: str, text: str) -> None:
        """Adds a line."""
        self.lines.append(f"{subject:<12} {text}")

    def add_difference(self, step: int, subject: str, text: str) -> None:
        """Adds a line about a step that differs."""
        first = self.first_difference
        self.first_difference = step if first is None else min(step, first)
        self.add(subject, text)


def compare(a: Path, b: Path) -> Comparison:
    """Compares the records, metrics, steps and checkpoints of two runs, from their files alone.

    Raises `Error` where a folder is not a run's, or has no trace of its steps.
    """
    comparison = Comparison()
    comparison.add("A", str(a))
    comparison.add("B", str(b))
    record_a, record_b = read_record(a), read_record(b)
    for name in ("config", "data"):
        comparison.add(name, _changes(record_a[name], record_b[name]))
    comparison.add("code", _code_changes((a, record_a), (b, record_b)))
    comparison.add("environment", _environment_changes(record_a, record_b))
    _compare_metrics(comparison, a, b)
    _compare_steps(comparison, a, b)
    _compare_states(comparison, a, b)
    return comparison


def _changes(a: dict[str, Any], b: dict[str, Any]) -> str:
    return difference(a, b, NAMES) or "equal"


def _code_changes(*runs: tuple[Path, dict[str, Any]]) -> str:
    """How the code that two runs keep differs; of runs without code their programs, by a hash."""
    (a, record_a), (b, record_b) = runs
    of_a, of_b = record_a["code"], record_b["code"]
    if not of_a and not of_b:
        programs = [record.get("program") for _, record in runs]
        if None in programs:
            return "not kept"
        equal = len({*programs}) == 1
        return "not kept; the compiled step and the initial state are equal" if equal else DIFFERS
    texts = []
    for name in sorted({*of_a, *of_b}):
        if name not in of_a or name not in of_b:
            texts.append(f"{name} is {NAMES[name in of_b]} alone")
        elif of_a[name] != of_b[name]:
            texts.append(f"{name} differs{_first_line(a / FOLDER / name, b / FOLDER / name)}")
    texts = texts or ["equal"]
    for name, (_, record) in zip("AB", runs, strict=True):
        texts += [f"but {name} had other code before a resume"] if had_other_code(record) else []
    return ", ".join(texts)


def _first_line(*paths: Path) -> str:
    """The first line in which two files differ, in words; "" where one is lost."""
    try:
        lines = [path.read_bytes().splitlines() for path in paths]
    except OSError:
        return ""
    pairs = enumerate(zip_longest(*lines), 1)
    return next((f", line {n}" for n, (one, other) in pairs if one != other), "")


def _environment_changes(a: dict[str, Any], b: dict[str, Any]) -> str:
    """The first difference of two runs' environments, which may have changed at resumes."""
    of_a, of_b = numerics_environments(a), numerics_environments(b)
    count = max(len(of_a), len(of_b))
    of_a, of_b = (found + found[-1:] * (count - len(found)) for found in (of_a, of_b))
    pairs = zip(of_a, of_b, strict=True)
    n = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    if n is None:
        return "equal"
    return f"{'after a resume, ' if n else ''}{_changes(of_a[n], of_b[n])}"


def _compare_metrics(comparison: Comparison, a: Path, b: Path) -> None:
    lines_a, lines_b = (
        {(line["step"], line["split"]): line for line in log.read(folder)} for folder in (a, b)
    )
    common = [key for key in lines_a if key in lines_b]
    for step, split in common:
        line_a, line_b = lines_a[step, split], lines_b[step, split]
        if line_a != line_b:
            changes = f"differ first at step {step:,}, {split}: {_changes(line_a, line_b)}"
            comparison.add_difference(step, "metrics", changes)
            return
    comparison.add("metrics", f"{len(common):,} lines equal")


def _compare_steps(comparison: Comparison, a: Path, b: Path) -> None:
    trace_a, trace_b = _trace(a), _trace(b)
    count = min(len(trace_a), len(trace_b))
    if len(trace_a) != len(trace_b):
        comparison.ends = f"{'A' if len(trace_a) == count else 'B'} ends at step {count:,}"
    known = ~(np.isnan(trace_a[:count]).all(1) | np.isnan(trace_b[:count]).all(1))
    unequal = trace_a[:count].view(np.uint32) != trace_b[:count].view(np.uint32)
    rows = np.flatnonzero(unequal.any(1) & known)
    if not len(rows):
        total = max(len(trace_a), len(trace_b))
        comparison.add("steps", f"{known.sum():,} of {total:,} compared, all equal")
        return
    row = int(rows[0])
    values = [
        f"{CHECKED_METRICS[n]}: {trace_a[row, n]:.9g} in A, {trace_b[row, n]:.9g} in B"
        for n in np.flatnonzero(unequal[row])
    ]
    changes = f"differ first in step {row + 1:,}: {'; '.join(values)}"
    comparison.add_difference(row + 1, "steps", changes)


def _trace(folder: Path) -> np.ndarray:
    """The exact numbers of every step of a run; `Error` where there are none."""
    trace = read_trace(folder)
    if not len(trace):
        raise Error(
            f"{folder} has no trace of its steps: it was trained by another version of jdl, or has "
            "no step yet. Train it first."
        )
    return trace


def _compare_states(comparison: Comparison, a: Path, b: Path) -> None:
    compared, equal = 0, None
    for step, entry_a, entry_b in _same_steps(read_leaves(a), read_leaves(b)):
        leaves_a, leaves_b = entry_a["leaves"], entry_b["leaves"]
        names = [n for n in {**leaves_a, **leaves_b} if leaves_a.get(n) != leaves_b.get(n)]
        if names:
            resumed = entry_a.get("start") or entry_b.get("start")
            how = ", in the state that training resumed from" if resumed else ""
            more = f" and {len(names) - 1:,} more of {len(leaves_a):,} arrays" if names[1:] else ""
            before = "no earlier state was recorded"
            if equal is not None:
                before = f"after step {equal:,} all arrays were equal"
            text = f"differ first after step {step:,}{how}: {names[0]}{more}; {before}"
            comparison.add_difference(step, "states", text)
            return
        compared, equal = compared + 1, step
    comparison.add("states", f"{compared:,} compared, all arrays equal")


def _same_steps(
    entries_a: list[dict[str, Any]], entries_b: list[dict[str, Any]]
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """All pairs of entries of the same step, sorted by step."""
    for entry_a in sorted(entries_a, key=lambda entry: entry["step"]):
        for entry_b in entries_b:
            if entry_a["step"] == entry_b["step"]:
                yield entry_a["step"], entry_a, entry_b


def repeat(folder: Path, quiet: bool = False) -> Comparison:
    """Trains a run again from its record, up to its last step: A is the run, B its repetition.

    The repetition is in a temporary folder, which is kept if the two differ. In that case it is
    repeated once more: if B differs from this too, the cause is the machine, and otherwise how run
    A was trained.
    """
    steps, record = len(_trace(folder)), read_record(folder)
    run, script = recorded(folder)
    until = None if (folder / "summary.json").exists() else steps
    options = {name: v for name, v in record["options"].items() if name in RECORDED_OPTIONS}
    options["quiet"] = quiet
    repetition = _train_again(run, script, Options(until=until, **options))
    comparison = compare(folder, repetition)
    if digest(run.config) != record["digest"]:
        text = f"run.json was edited: its config has the digest {digest(run.config)}"
        comparison.add("record", f"{text}, not {record['digest']}")
    first = comparison.first_difference
    if first is None:
        shutil.rmtree(_root(repetition))
    else:
        again = _train_again(run, script, Options(until=max(1, first), **options))
        second = compare(repetition, again).first_difference
        result = "repeats itself to the bit"
        if second is not None:
            result = f"does not repeat itself: step {second:,} differs"
        comparison.add("this machine", f"{result}; the repetition is in {repetition}")
        shutil.rmtree(_root(again))
    return comparison


def _train_again(run: Run, script: Path, options: Options) -> Path:
    """Trains the run in a new temporary folder, which it returns; none is left if that fails."""
    options = replace(options, root=Path(tempfile.mkdtemp(prefix="jdl-repeat-")))
    try:
        fit(run, options, script)
    except BaseException as error:
        if not isinstance(error, PausedError) or error.code:
            shutil.rmtree(options.root, ignore_errors=True)
            raise
    return run_folder(options.root, run.config)


def _root(folder: Path) -> Path:
    """The root of a run's folder, root/<name>/<digest>/seed<k>."""
    return folder.parents[2]
