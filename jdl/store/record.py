"""The record of a run, run.json: config, data, code and environment, and their changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jdl.config import Options, difference, digest, to_json
from jdl.data.augment import Normalize
from jdl.data.loader import DatasetLoader
from jdl.objectives.pretrained_model import Loaded
from jdl.run import Run
from jdl.store.code import code_hashes, computes_otherwise, write_code
from jdl.store.environment import command_line, fingerprint, git_commit, numerics_environment
from jdl.store.folder import DiskError, free_name, read_json, write_json
from jdl.store.lock import hold_lock
from jdl.store.manifest import is_complete
from jdl.types import Error, Loader

FORMAT = 3  # of records and checkpoints; increased when older ones can no longer be read
RECORDED_NUMBERS = 1_000  # of a mean or a standard deviation, at most
RECORDED_OPTIONS = (
    "devices",
    "mesh",
    "parallel",
    "steps_per_call",
    "log_every",
    "eval_every",
    "save_every",
    "keep",
)
IDENTITY = {
    "config": "another config",
    "data": "other data",
    "best": "another metric for the best checkpoint",
    "pretrained": "other pretrained weights",
}  # the fields of a record that must not change when a run resumes, unless --accept names them
SEGMENT = (
    "command",
    "script",
    "git",
    "environment",
    "options",
)  # the fields of a segment: the part of a run after a resume with changes
FIELDS = {
    "config": dict,
    "data": dict,
    "code": dict,
    "environment": dict,
    "options": dict,
    "best": str,
    "digest": str,
    "seed": int,
}
CONFIG_FIELDS = {"name": str, "steps": int}  # fields of the config that the catalog reads
LOADED_FIELDS = {"source": str, "sha256": str, "names": dict, "fresh": list, "left_out": list}


def make_record(
    run: Run,
    splits: Mapping[str, Loader],
    script: Path | None,
    code: Mapping[str, bytes],
    options: Options,
    loaded: Collection[Loaded] = (),
    program: str | None = None,
) -> dict[str, Any]:
    """Makes the record of a run, before its first step.

    `program` is the hash of what it computes: it shows a change of code where no code is kept.
    """
    record = {
        "format": FORMAT,
        "config": to_json(run.config),
        "digest": digest(run.config),
        "seed": run.config.seed,
        "data": {name: data.fingerprint for name, data in splits.items()},
        "normalization": _normalization(run.train),
        "best": run.best,
        "script": str(script.resolve()) if script else None,
        "code": code_hashes(dict(code)),
        "program": program,
        "command": command_line(),
        "git": git_commit(script),
        "environment": fingerprint(),
        "options": {name: getattr(options, name) for name in RECORDED_OPTIONS},
    }
    return record | ({"pretrained": [one.record() for one in loaded]} if loaded else {})


def _normalization(train: Loader) -> dict[str, Any]:
    """The mean and standard deviation by which columns are normalized; of many features a hash."""

    def numbers(values: np.ndarray) -> Any:
        if values.size <= RECORDED_NUMBERS:
            return values.tolist()
        return f"SHA-256 {hashlib.sha256(values.tobytes()).hexdigest()}"

    transforms = train.transforms if isinstance(train, DatasetLoader) else ()
    return {
        t.column: {"mean": numbers(t.mean), "std": numbers(t.std)}
        for t in transforms
        if isinstance(t, Normalize)
    }


def read_record(folder: Path) -> dict[str, Any]:
    """Reads the record of a run; `Error` where its format is another, or a field is missing."""
    path = folder / "run.json"
    record = read_json(path)
    remedy = "move the folder away, or train the run again with --fresh"
    if isinstance(record, dict) and "config" in record and record.get("format") != FORMAT:
        raise Error(
            f"{path} is of format {record.get('format', '2 or older')}, and this jdl reads format "
            f"{FORMAT}: evaluate it with the jdl that trained it, {remedy}."
        )
    wrong = "run.json"
    if isinstance(record, dict):
        wrong = _wrong_field(record, FIELDS) or _wrong_field(record["config"], CONFIG_FIELDS)
        if not wrong and record["best"].split()[:-1] not in (["max"], ["min"]):
            wrong = "best"
        if not wrong and not _are_loaded(record.get("pretrained", [])):
            wrong = "pretrained"
    if wrong:
        raise Error(
            f"{path} is not the record of a run: its {wrong} is missing or wrong; {remedy}."
        )
    return record


def _wrong_field(values: dict[str, Any], fields: Mapping[str, type]) -> str | None:
    """The first field that is not of the type that it must have."""
    wrong = (name for name, kind in fields.items() if not isinstance(values.get(name), kind))
    return next(wrong, None)


def _are_loaded(pretrained: Any) -> bool:
    """Whether these are tables of what pretrained models have loaded."""
    return isinstance(pretrained, list) and all(
        isinstance(one, dict)
        and one.keys() == LOADED_FIELDS.keys()
        and not _wrong_field(one, LOADED_FIELDS)
        for one in pretrained
    )


@dataclass(frozen=True)
class RecordUpdate:
    """The update of run.json for a run that is started again in its folder."""

    folder: Path
    old: dict[str, Any]  # the record there
    now: dict[str, Any]  # the record of the run as it is started now
    code: Mapping[str, bytes]
    changed_files: list[str]  # of the code
    code_difference: str  # in words; also where no code is kept
    accepted: dict[str, str]  # differences of the run's identity that --accept allows, in words
    environment_changed: bool

    def write(self, finished: bool) -> None:
        """Writes it, once the run's state is restored: `finished`, or to be trained further.

        A run that is finished was trained by the code that it has, and keeps it. Raises `Error`
        where it is finished and a change of its identity is accepted: nothing would be trained
        with that.
        """
        if finished and self.accepted:
            raise Error(
                f"{self.folder} is finished, so nothing would be trained with what --accept "
                f"allows ({', '.join(self.accepted.values())}): leave the change out, or train "
                "anew, with --fresh (which moves the old run aside) or under another --name."
            )
        fields, code_change = [*self.accepted], dict[str, Any]()
        fields += ["digest"] if "config" in self.accepted else []
        if not (finished and self.code_difference):
            moved_to = None
            if self.code:
                moved_to = write_code(self.folder, dict(self.code))  # heals, after a kill
                fields += ["script", "code"]
            fields += [] if finished or self.old["code"] else ["program"]
            code_change = self._code_change(moved_to)
        new = {name: self.now.get(name) for name in fields}
        if self.accepted or self.environment_changed or code_change:
            segment = {name: self.now[name] for name in SEGMENT} | code_change
            segment |= {"accepted": self.accepted} if self.accepted else {}
            new["segments"] = [*_segments(self.old), segment]
        if new != {name: self.old.get(name) for name in new}:
            write_json(self.folder / "run.json", {**self.old, **new})

    def _code_change(self, moved_to: str | None) -> dict[str, Any]:
        """What a segment has of the code before it, which was moved to a folder of that name."""
        if self.changed_files:
            before = {name: self.old["code"].get(name) for name in self.changed_files}
            return {"code_changed": before, "code_before": moved_to}
        return {"program_before": self.old["program"]} if self.code_difference else {}


@dataclass(frozen=True)
class Changes:
    """What differs between a run and the record that its folder has of it."""

    notes: list[str] = field(default_factory=list)  # for the user
    update: RecordUpdate | None = None  # None: the run is new, or another process has the record

    @property
    def code_difference(self) -> str:
        """How the code differs, in words; empty where it does not."""
        return self.update.code_difference if self.update else ""

    def record(self, finished: bool) -> None:
        """Records them, of a run that is finished or goes on; see `RecordUpdate.write`."""
        if self.update:
            self.update.write(finished)


@contextmanager
def open_run(
    folder: Path,
    record: dict[str, Any],
    code: Mapping[str, bytes],
    fresh: bool = False,
    accept: Sequence[str] = (),
) -> Iterator[Changes]:
    """Creates or reopens a run's folder, and locks it against other processes.

    Yields what has changed, to be recorded once the run's state is restored: code that does not fit
    must not take the place of code that does. Then, where the environment or the code has changed,
    or `accept` allows another change, the record gets a new segment. `fresh` moves an earlier run
    to seed<k>.1, seed<k>.2, ... Raises `Error` where the folder cannot be written, is locked, or
    holds a run with another config or other data.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            notes = stack.enter_context(hold_lock(folder))
        except OSError as error:
            raise DiskError(
                f"The run's folder {folder} cannot be written: {error}. Choose another with --root."
            ) from error
        if fresh and (folder / "run.json").exists():
            _move_aside(folder)
        changes = Changes(notes)
        if (folder / "run.json").exists():
            changes = _changes(folder, record, code, accept, notes)
        else:
            write_code(folder, dict(code))
            write_json(folder / "run.json", record)
        yield changes


def numerics_environments(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The environments that the bits depended on: at the start, and after resumes that changed it.

    A segment of a record has the environment and the options of a resume.
    """
    found = [numerics_environment(record)]
    for segment in _segments(record):
        later = numerics_environment({**record, **segment})
        found += [later] if later != found[-1] else []
    return found


def had_other_code(record: dict[str, Any]) -> bool:
    """Whether the run was trained by other code before a resume."""
    return any("code_changed" in one or "program_before" in one for one in _segments(record))


def _segments(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [segment for segment in record.get("segments") or [] if isinstance(segment, dict)]


def _move_aside(folder: Path) -> None:
    """Moves everything except the lock, which this process holds, to seed<k>.1, ..."""
    aside = free_name(folder, first=1)
    aside.mkdir()
    for item in folder.iterdir():
        if item.name != "lock":
            item.rename(aside / item.name)


def _changes(
    folder: Path,
    record: dict[str, Any],
    code: Mapping[str, bytes],
    accept: Sequence[str],
    notes: list[str],
) -> Changes:
    """Checks that the folder holds this run, and finds what has changed."""
    old = read_record(folder)
    accepted = _accepted(folder, old, record, accept)
    before, now = numerics_environments(old)[-1], numerics_environment(record)
    found = [
        f"Accepted: it continues with {IDENTITY[name]} ({differences}), as run.json records"
        for name, differences in accepted.items()
    ]
    if before != now:
        found.append(
            f"The bits may differ from here on, as run.json records: {difference(before, now)}"
        )
    hashes = record["code"] if code else old["code"]  # Python without a script: its code stays
    files = sorted(n for n in {**old["code"], **hashes} if old["code"].get(n) != hashes.get(n))
    code_difference = ", ".join(n for n in files if computes_otherwise(folder, n, code))
    if not files and before == now and not accepted:
        code_difference = _other_program(old, record)
    update = RecordUpdate(
        folder, old, record, code, files, code_difference, accepted, before != now
    )
    return Changes([*notes, *found], update)


def _accepted(
    folder: Path, old: dict[str, Any], record: dict[str, Any], accept: Sequence[str]
) -> dict[str, str]:
    """What differs of a run's identity, in words; `Error` where `accept` does not name it."""
    pairs = {name: (_fields(name, old), _fields(name, record)) for name in IDENTITY}
    differences = {name: difference(*pair) for name, pair in pairs.items() if pair[0] != pair[1]}
    for name, text in differences.items():
        if name not in accept:
            raise Error(
                f"{folder} holds a run with {IDENTITY[name]} ({text}): train into "
                "another --root, use --fresh to move that run aside, or --accept "
                f"{name} to continue that run with the change."
            )
    return differences


def _other_program(old: dict[str, Any], record: dict[str, Any]) -> str:
    """What to say of a run that computes something else; empty if not, or if it is not known."""
    hashes = old.get("program"), record["program"]
    differs = None not in hashes and hashes[0] != hashes[1]
    return "another initial state or training step" if differs else ""


def _fields(name: str, record: dict[str, Any]) -> dict[str, Any]:
    value = record.get(name)
    if name == "pretrained":  # what was loaded, wherever it lay
        value = [_loaded(one) for one in value or []]
    return value if isinstance(value, dict) else {name: value}


def _loaded(one: dict[str, Any]) -> str:
    """What a pretrained model has loaded, in a few words that differ where the numbers may."""
    table = hashlib.sha256(json.dumps([one["names"], one["fresh"]]).encode()).hexdigest()
    loaded = f"{len(one['names'])} arrays of SHA-256 {one['sha256'][:12]}"
    return f"{loaded}, fresh {len(one['fresh'])}, names and places {table[:6]}"


def loaded_before(folder: Path) -> list[dict[str, Any]]:
    """What pretrained models have loaded for the run in a folder that has a checkpoint."""
    path = folder / "run.json"
    found = any(is_complete(step) for step in folder.glob("checkpoints/*"))
    return read_record(folder).get("pretrained", []) if found and path.is_file() else []
