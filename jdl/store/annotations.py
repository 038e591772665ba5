"""Tags and notes of runs: what a person says of a run, in a file beside its record.

They are no part of the run: nothing that trains, compares or repeats one reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jdl.store.folder import read_json, write_json
from jdl.types import Error

FILE = "annotations.json"


@dataclass(frozen=True)
class Annotations:
    """The tags of a run, sorted, and a note."""

    tags: tuple[str, ...] = ()
    note: str = ""


def read_annotations(folder: Path) -> Annotations:
    """The tags and the note of the run in a folder; `Error` where their file is damaged."""
    path = folder / FILE
    if not path.exists():
        return Annotations()
    with suppress(Error):
        match read_json(path):
            case {"tags": list(tags), "note": str(note)} if all(isinstance(t, str) for t in tags):
                return Annotations(tuple(tags), note)
    raise Error(f"{path} is damaged: delete it, and tag the run again.")


def annotate(
    folder: Path | str,
    tag: Collection[str] = (),
    untag: Collection[str] = (),
    note: str | None = None,
) -> Annotations:
    """Tags a run, takes tags away, or replaces its note, "" by none; how it is annotated then.

    Raises `Error` where the folder has no run, or a tag is empty or has a comma.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise Error(f"{folder} has no run: `jdl runs` lists all.")
    if wrong := [one for one in (*tag, *untag) if not one.strip() or "," in one]:
        raise Error(f"A tag is a word or several without commas, not {wrong[0]!r}.")
    old = read_annotations(folder)
    tags = ({*old.tags} | {one.strip() for one in tag}) - {one.strip() for one in untag}
    now = Annotations(tuple(sorted(tags)), old.note if note is None else note)
    write_json(folder / FILE, {"tags": now.tags, "note": now.note})
    return now
