"""A bundle: a folder with all that it takes to train a run again on another machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jdl.bundle.card import card
from jdl.bundle.data import Part, data_parts, watch_files, weights_parts, within
from jdl.bundle.requirements import locked_versions, requirements
from jdl.bundle.wheel import write_wheel
from jdl.config import difference
from jdl.run import Run
from jdl.store.catalog import check_finished
from jdl.store.code import FOLDER as CODE
from jdl.store.environment import fingerprint
from jdl.store.folder import new_folder, read_description, write_json
from jdl.store.manifest import hash_file
from jdl.store.record import read_record
from jdl.store.step_trace import read_trace
from jdl.train.experiment import rebuild
from jdl.train.placement import splits
from jdl.types import Error
from jdl.weights.load import RUN as RUN_SOURCE

FORMAT = 1  # of bundles; increased when older readers can no longer read them
NAME, RUN, LOCK, CARD = "bundle.json", "run", "requirements.txt", "README.md"
RECORD = "run.json"  # of a run's folder
KEPT = ("metrics.jsonl", "trace.f32", "leaves.jsonl", "summary.json")  # of a run's folder
MOST_BYTES = 50_000_000  # of data
NAMES = ("when it was trained", "here")


def write(
    folder: Path | str, to: Path | str, anyway: bool = False, most_bytes: int = MOST_BYTES
) -> Path:
    """Bundles a run: writes a new folder `to` with which it is repeated on another machine.

    It has the run's code, its record with what `jdl repeat` compares, a lock of the versions that
    are installed, jdl as a wheel, the data where they are at most `most_bytes`, and the hash of
    each file. Call it in the folder that the run was trained in: data beneath it are found again.
    `anyway` also takes a run that is not finished. Raises `Error` before anything is written where
    `to` exists, or the run cannot be repeated: it has no script, was resumed with changes, or its
    versions or data are no longer those of the record.
    """
    folder, to = Path(folder), Path(to)
    if to.exists():
        raise Error(f"{to} exists already: choose another folder, or delete it.")
    check_finished(folder, anyway, "bundle")
    record = read_record(folder)
    _check(folder, record)
    with watch_files() as found:
        check_data(record, rebuild(folder), NAMES)
        weights = weights_parts(record.get("pretrained") or [])
    parts, outside = data_parts(found, folder)
    parts += weights
    taken = within(parts, most_bytes)
    versions = locked_versions({name.partition(".")[0] for name in sys.modules})
    with new_folder(to) as temporary:
        _copy_run(folder, record, temporary / RUN)
        _copy_data(taken, temporary)
        wheel = write_wheel(temporary)
        (temporary / LOCK).write_text(requirements(versions, wheel), "utf-8")
        about = {
            "format": FORMAT,
            "wheel": wheel.name,
            "data": [_described(part, part in taken) for part in parts],
            "outside": sorted(path.name for path in outside),
        }
        (temporary / CARD).write_text(card(record, about, temporary / RUN), "utf-8")
        files = {p.relative_to(temporary).as_posix(): hash_file(p) for p in _files(temporary)}
        write_json(temporary / NAME, {**about, "files": files})
    return to


def _check(folder: Path, record: dict[str, Any]) -> None:
    """Raises `Error` where a run cannot be repeated elsewhere, whatever its data are."""
    if record.get("segments"):
        raise Error(
            f"{folder} was resumed with changes, as its run.json records (code, environment, or "
            "what --accept allowed), so that no one training repeats it: train it again with "
            "--fresh."
        )
    if not len(read_trace(folder)):
        raise Error(f"{folder} has no trace of its steps, with which to compare: train it first.")
    environment = record["environment"]
    if (processes := environment["host"].get("processes")) != 1:
        raise Error(
            f"{folder} was trained by {processes} processes, and `jdl repeat` trains in one: train "
            "it again in one process."
        )
    then, now = (minor_versions(found["versions"]) for found in (environment, fingerprint()))
    if changed := difference(then, now, NAMES):
        raise Error(
            f"The versions that are installed are not those of {folder} ({changed}): bundle it in "
            "the environment in which it was trained."
        )
    paths = {
        name: value
        for name, value in record["config"].items()
        if isinstance(value, str) and Path(value).is_absolute()
    }
    for name, value in paths.items():
        raise Error(
            f"The config of {folder} has a path of this machine, {name} = {value}: train with one "
            "that is relative to the folder in which you call jdl."
        )


def minor_versions(values: dict[str, Any]) -> dict[str, Any]:
    """The same, with Python's version as 3.11 and not 3.11.7: no numbers depend on the last part.

    Where Python is not among them, they stay as they are.
    """
    if "python" not in values:
        return values
    return {**values, "python": ".".join(str(values["python"]).split(".")[:2])}


def check_data(record: dict[str, Any], run: Run, names: tuple[str, str]) -> None:
    """Raises `Error` where a run's data are not those of its record."""
    now = {name: data.fingerprint for name, data in splits(run).items()}
    if changed := difference(record["data"], now, names):
        raise Error(f"The data are not those that the run was trained with ({changed}).")


def _copy_run(folder: Path, record: dict[str, Any], to: Path) -> None:
    """Copies the code, the record and what is compared; without the paths of this machine."""
    shutil.copytree(folder / CODE, to / CODE, ignore=shutil.ignore_patterns("__pycache__"))
    for name in KEPT:
        if (folder / name).is_file():
            shutil.copy(folder / name, to / name)
    write_json(to / RECORD, _without_paths(record))


def _without_paths(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record without the paths of this machine."""
    pretrained = [
        {**one, "source": _relative(one["source"])} for one in record.get("pretrained", [])
    ]
    return {
        **record,
        "script": _relative(record["script"]),
        "command": [_without_path(word) for word in record.get("command") or []],
        **({"pretrained": pretrained} if pretrained else {}),
    }


def _without_path(word: str) -> str:
    """A word of a command line, in which the path in --name=/path is relative, too."""
    name, sign, value = word.partition("=")
    return f"{name}={_relative(value)}" if sign else _relative(word)


def _relative(path: str) -> str:
    """A path relative to the folder that this process works in; elsewhere its name alone.

    Also of a run as a source of weights, "run:/path".
    """
    if path.startswith(RUN_SOURCE):
        return RUN_SOURCE + _relative(path.removeprefix(RUN_SOURCE))
    absolute, here = Path(path), Path.cwd()
    if not absolute.is_absolute():
        return path
    if absolute.is_relative_to(here):
        return absolute.relative_to(here).as_posix()
    return absolute.name


def _copy_data(parts: Sequence[Part], folder: Path) -> None:
    for part in parts:
        for place, path in part.files.items():
            if not (folder / place).resolve().is_relative_to(folder.resolve()):
                raise Error(f"{path} would be written outside of the bundle, to {place}.")
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            if path.name == RECORD and (path.parent / CODE).is_dir():  # of a run that gives weights
                write_json(folder / place, _without_paths(read_record(path.parent)))
            else:
                shutil.copy(path, folder / place)


def _described(part: Part, taken: bool) -> dict[str, Any]:
    return {
        "name": part.name,
        "bytes": part.nbytes,
        "included": taken,
        "how": part.how,
        "files": sorted(part.files),
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read_bundle(folder: Path) -> dict[str, Any]:
    """Reads what a bundle says of itself, after a check of the hash of each of its files.

    Raises `Error` where it is no bundle, is of a newer format, or a file is missing or has changed.
    """
    path = folder / NAME
    fields, advice = {"files": dict, "wheel": str}, "install the jdl that is in the bundle"
    about = read_description(path, FORMAT, fields, "a bundle", f"{advice}, as its {CARD} says")
    files = about["files"]
    for name in (about["wheel"], f"{RUN}/{RECORD}"):
        if name not in files:
            raise Error(f"{path} is damaged: it does not name {name}.")
    for name, expected in files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise Error(f"{folder} is damaged: {name} is missing. Copy the bundle again.")
        if hash_file(file) != expected:
            raise Error(f"{folder} is damaged: {name} has changed. Copy the bundle again.")
    return about
