"""A run's folder: where it lies, its record, and the lock that keeps a second writer out."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jdl.runs.config import Config, difference, digest
from jdl.types import Error


def path_of(root: Path, config: Config) -> Path:
    """runs/<name>/<config digest>/seed<k>."""
    return root / config.name / digest(config) / f"seed{config.seed}"


def write_json(path: Path, value: Any) -> None:
    """Writes the whole file or nothing: beside it, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def read_json(path: Path) -> Any:
    """The JSON in a file; `Error` where there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Error(f"{path} cannot be read as JSON: {error}. Is its folder a run's?") from error


@contextmanager
def opened(folder: Path, record: dict[str, Any], fresh: bool) -> Iterator[list[str]]:
    """Makes the folder, or checks that the run in it is this one, and holds it for this process alone.

    Yields what is to be told: where versions, device or flags are others than before, the bits may be others too, and
    the record gets another segment. `fresh` moves an earlier run to seed<k>.1, seed<k>.2, ... Raises `Error` where the
    folder cannot be written, is held by another process, or holds a run of another config or other data.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise Error(f"The run's folder {folder} cannot be written: {error}. Choose another with --root.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise Error(f"{folder} is being trained already, by process {lock.read().strip() or '?'}.") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        if fresh and (folder / "run.json").exists():
            _move_aside(folder)
        if (folder / "run.json").exists():
            _check_same(folder, record)
            yield _gone_on(folder, record)
        else:
            write_json(folder / "run.json", record)
            yield []


def held(folder: Path) -> bool:
    """Whether a process is training in the folder now."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _move_aside(folder: Path) -> None:
    """Moves all but the lock, which this process holds."""
    aside = next(path for n in range(1, 10**6) if not (path := folder.with_name(f"{folder.name}.{n}")).exists())
    aside.mkdir()
    for item in folder.iterdir():
        if item.name != "lock":
            item.rename(aside / item.name)


def _gone_on(folder: Path, record: dict[str, Any]) -> list[str]:
    """Adds a segment to the record where the environment is another than that of the last; what is to be told of it."""
    old = read_json(folder / "run.json")
    segments = old.get("segments", [])
    before, now = _bits_hang_on((segments or [old])[-1]), _bits_hang_on(record)
    if before == now:
        return []
    segments.append({name: record[name] for name in ("command", "git", "environment")})
    write_json(folder / "run.json", {**old, "segments": segments})
    return [f"The bits may differ from here on: {difference(before, now)}. It is recorded in run.json"]


def _bits_hang_on(record: dict[str, Any]) -> dict[str, Any]:
    """The parts of a recorded environment that arithmetic hangs on, by name."""
    environment = record.get("environment", {})
    parts = {name: environment.get(name, {}) for name in ("versions", "variables", "settings")}
    kind = environment.get("devices", {}).get("kind")
    return {"device": kind, **{name: value for part in parts.values() for name, value in part.items()}}


def _check_same(folder: Path, record: dict[str, Any]) -> None:
    old = read_json(folder / "run.json")
    if not isinstance(old, dict) or not isinstance(old.get("config"), dict):
        raise Error(f"{folder}/run.json is not the record of a run: move the folder away, or use --fresh.")
    if old["config"] != record["config"]:
        raise Error(
            f"{folder} holds a run of another config ({difference(old['config'], record['config'])}): train into "
            "another --root, or use --fresh to move that run aside."
        )
    if old.get("best") != record["best"]:
        raise Error(
            f'{folder} holds a run that is judged by "{old.get("best")}", and this one is by "{record["best"]}": early '
            "stopping and the best checkpoint hang on it. Train into another --root, or use --fresh."
        )
    if old.get("data") != record["data"]:
        raise Error(
            f"{folder} was trained on other data (fingerprints {difference(old.get('data') or {}, record['data'])}): "
            "bring those back, or use --fresh to move that run aside."
        )
