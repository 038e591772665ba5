"""A run's folder: where it lies, its record, and the lock that keeps a second writer out."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jdl.config import Config, difference, digest
from jdl.store.lock import locked
from jdl.types import Error

REFUSED = {
    "config": "of another config",
    "data": "on other data",
    "best": "that is judged by another metric",
}  # what may not change unsaid between two parts of a run
FORM = {
    "config": dict,
    "data": dict,
    "environment": dict,
    "options": dict,
    "best": str,
    "digest": str,
    "seed": int,
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)
CONFIG = {"name": str, "steps": int}  # of the config's fields, those that other verbs read
LAYOUT = ("devices", "mesh", "parallel")


def path_of(root: Path, config: Config) -> Path:
    """runs/<name>/<config digest>/seed<k>."""
    return Path(root) / config.name / digest(config) / f"seed{config.seed}"


def write_whole(path: Path, content: bytes) -> None:
    """Writes the whole file or nothing: beside it, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_whole(path, f"{json.dumps(value, indent=1)}\n".encode())


def read_json(path: Path) -> Any:
    """The JSON in a file; `Error` where there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Error(f"{path} cannot be read as JSON: {error}. Is its folder a run's?") from error


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run; `Error` where it lacks something that every record of this jdl has."""
    record = read_json(folder / "run.json")
    wrong = (
        "run.json"
        if not isinstance(record, dict)
        else _wrong(record, FORM) or _wrong(record["config"], CONFIG)
    )
    if wrong or record["best"].split()[:-1] not in (["max"], ["min"]):
        raise Error(
            f"{folder}/run.json is not the record of a run of this jdl, by its {wrong or 'best'}: move the folder "
            "away, or train it anew with --fresh."
        )
    return record


def _wrong(values: dict[str, Any], form: dict[str, type]) -> str | None:
    """The first field that is not of the type that it must have."""
    return next(
        (name for name, kind in form.items() if not isinstance(values.get(name), kind)), None
    )


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Writes JSON objects, one a line, whole or not at all."""
    write_whole(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def read_lines(path: Path, field: str, kind: type) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line, each with a `step` and this field of this type; none without a file.

    A last line that was cut off by a kill is left out. Raises `Error` for any other that is no such object.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not (isinstance(entry["step"], int) and isinstance(entry[field], kind)):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines):
                break
            raise Error(
                f"{path}, line {number}, is not one of a run's: {line[:80]!r}. Is the disk whole?"
            ) from None
        found.append(entry)
    return found


@contextmanager
def opened(
    folder: Path, record: dict[str, Any], fresh: bool = False, accept: Sequence[str] = ()
) -> Iterator[list[str]]:
    """Makes the folder, or checks that the run in it is this one, and holds it for this process alone.

    Yields what is to be told: where versions, device or flags are others than before, the bits may be others too, and
    the record gets another segment; so it does for each change that is to be accepted. `fresh` moves an earlier run to
    seed<k>.1, seed<k>.2, ... Raises `Error` where the folder cannot be written, is held by another process, or holds a
    run of another config or other data.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            notes = stack.enter_context(locked(folder))
        except OSError as error:
            raise Error(
                f"The run's folder {folder} cannot be written: {error}. Choose another with --root."
            ) from error
        if fresh and (folder / "run.json").exists():
            _move_aside(folder)
        if (folder / "run.json").exists():
            yield [*notes, *_gone_on(folder, record, accept)]
        else:
            write_json(folder / "run.json", record)
            yield notes


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Tells what keeps the files of a run from being written: a full disk, for example."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL + CLOSED:
            raise
        raise Error(
            f"{folder} could not be written: {error}. What was saved before is whole: make room or way, and the same "
            "command goes on."
        ) from error


def _move_aside(folder: Path) -> None:
    """Moves all but the lock, which this process holds."""
    aside = next(
        path
        for n in range(1, 10**6)
        if not (path := folder.with_name(f"{folder.name}.{n}")).exists()
    )
    aside.mkdir()
    for item in folder.iterdir():
        if item.name != "lock":
            item.rename(aside / item.name)


def _gone_on(folder: Path, record: dict[str, Any], accept: Sequence[str]) -> list[str]:
    """Checks that it is the same run that goes on; gives what is to be told where something has changed.

    Where it has, the record gets another segment, and what was accepted takes the place of what was.
    """
    old = read_record(folder)
    changed = [name for name in REFUSED if old.get(name) != record[name]]
    differences = {name: difference(_named(name, old), _named(name, record)) for name in changed}
    for name in changed:
        if name not in accept:
            raise Error(
                f"{folder} holds a run {REFUSED[name]} ({differences[name]}): train into another --root, use --fresh "
                f"to move that run aside, or --accept {name} to go on with it as it is now."
            )
    segments = [segment for segment in old.get("segments") or [] if isinstance(segment, dict)]
    before, now = bits_hang_on({**old, **(segments or [{}])[-1]}), bits_hang_on(record)
    notes = [
        f"Accepted: it goes on {REFUSED[name]} ({differences[name]}), as run.json records"
        for name in changed
    ]
    if before != now:
        notes.append(
            f"The bits may differ from here on, as run.json records: {difference(before, now)}"
        )
    if notes:
        segment = {name: record[name] for name in ("command", "git", "environment", "options")}
        segments.append(segment | ({"accepted": differences} if changed else {}))
        write_json(
            folder / "run.json",
            {**old, **{name: record[name] for name in changed}, "segments": segments},
        )
    return notes


def _named(name: str, record: dict[str, Any]) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {name: value}


def bits_hang_on(record: dict[str, Any]) -> dict[str, Any]:
    """The parts of a recorded environment, and of the layout, that arithmetic hangs on, by name."""
    environment, options = record["environment"], record["options"]
    parts = {name: _named(name, environment) for name in ("versions", "variables", "settings")}
    kind = _named("devices", environment).get("kind")
    layout = {} if record["config"].get("elastic") else {name: options.get(name) for name in LAYOUT}
    return {
        "device": kind,
        **layout,
        **{name: value for part in parts.values() for name, value in part.items()},
    }
