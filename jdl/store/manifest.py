"""Manifests: the SHA-256 of every file of a checkpoint, written last; without one there is no checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jdl.store.folder import read_json, write_json
from jdl.types import Error

NAME = "manifest.json"


def seal(folder: Path) -> None:
    """Writes the manifest of a checkpoint whose files are all there."""
    write_json(folder / NAME, {name: _sum(folder / name) for name in _files(folder)})


def sealed(folder: Path) -> bool:
    """Whether the checkpoint was written to its end."""
    return (folder / NAME).is_file()


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, file by file; nothing where each is as it was written."""
    try:
        manifest = read_json(folder / NAME)
        sums = dict(manifest)
    except (Error, TypeError, ValueError):
        return f"{NAME} is missing or cannot be read"
    present = set(_files(folder))
    if missing := sorted(set(sums) - present):
        return f"{missing[0]} is missing"
    if added := sorted(present - set(sums)):
        return f"{added[0]} was added"
    for name, promised in sums.items():
        try:
            if _sum(folder / name) != promised:
                return f"{name} has changed since it was saved"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def set_aside_damaged(checkpoints: Path) -> list[str]:
    """Moves checkpoints that are not as they were saved out of the way, so that none of them is ever read.

    What was not written to its end is left out as if it had never been begun. Gives what was found, a line each.
    Raises `Error` where there are checkpoints and none of them is whole.
    """
    steps = sorted(
        (int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), reverse=True
    )
    told: list[str] = []
    whole = False
    for step in steps:
        folder = checkpoints / str(step)
        wrong = damage(folder)
        if wrong is None:
            whole = True
        elif sealed(folder):
            told.append(
                f"The checkpoint of step {step:,} is damaged: {wrong}. It is kept in {_aside(folder)}"
            )
        else:
            _aside(folder)
    if told and not whole:
        raise Error(f"{'. '.join(told)}. No other is whole: use --fresh to begin anew.")
    return told


def _aside(folder: Path) -> Path:
    damaged = folder.parents[1] / "damaged"
    damaged.mkdir(exist_ok=True)
    to = next(path for n in range(10**6) if not (path := damaged / f"{folder.name}.{n}").exists())
    return folder.rename(to)


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != NAME
    )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
