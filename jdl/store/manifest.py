"""The manifest of a checkpoint: the SHA-256 of each of its files, written last.

A checkpoint without a manifest is incomplete: its process was killed while saving.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from jdl.store.folder import free_name, read_json, write_json
from jdl.types import Error

NAME = "manifest.json"
DAMAGED = "damaged"  # the folder of the run's in which no checkpoint is looked for


def write_manifest(checkpoint: Path) -> None:
    """Writes the manifest of a checkpoint, after all of its other files."""
    write_json(
        checkpoint / NAME, {name: hash_file(checkpoint / name) for name in _files(checkpoint)}
    )


def is_complete(checkpoint: Path) -> bool:
    """Whether the checkpoint was written completely."""
    return (checkpoint / NAME).is_file()


def damage(checkpoint: Path) -> str | None:
    """The damage of a checkpoint's files, in words; None where all match the manifest."""
    try:
        manifest = dict(read_json(checkpoint / NAME))
    except (Error, TypeError, ValueError):
        return f"{NAME} is missing or cannot be read"
    present = set(_files(checkpoint))
    if missing := sorted(set(manifest) - present):
        return f"{missing[0]} is missing"
    if added := sorted(present - set(manifest)):
        return f"{added[0]} was added"
    for name, expected in manifest.items():
        try:
            if hash_file(checkpoint / name) != expected:
                return f"{name} has changed since it was saved"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def move_damaged_aside(checkpoints: Path) -> list[str]:
    """Moves damaged and incomplete checkpoints into the folder `damaged`, so that none is restored.

    Returns a note on each damaged one; incomplete ones are normal after a kill, and noted where
    there is no other. Raises `Error` where there are damaged checkpoints and no intact one.
    """
    paths = [path for path in checkpoints.glob("*") if path.name.isdigit()]
    notes: list[str] = []
    incomplete: list[str] = []
    intact = False
    for path in sorted(paths, key=lambda path: -int(path.name)):
        wrong = damage(path)
        if wrong is None:
            intact = True
        elif is_complete(path):
            notes.append(
                f"The checkpoint of step {int(path.name):,} is damaged: {wrong}. "
                f"It is kept in {_move_aside(path)}"
            )
        else:
            incomplete.append(str(_move_aside(path)))
    if notes and not intact:
        raise Error(f"{'. '.join(notes)}. No checkpoint is intact: use --fresh to start again.")
    if incomplete and not intact:
        notes.append(
            "No checkpoint was saved to its end before a kill, so training starts again from step "
            f"0. What was saved is kept in {', '.join(incomplete)}"
        )
    return notes


def _move_aside(checkpoint: Path) -> Path:
    folder = checkpoint.parents[1] / DAMAGED
    folder.mkdir(exist_ok=True)
    return checkpoint.rename(free_name(folder / checkpoint.name))


def _files(checkpoint: Path) -> list[str]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != NAME)
    return sorted(str(path.relative_to(checkpoint)) for path in files)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
