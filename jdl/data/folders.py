"""Labelled files: those of a folder with a folder for each class, or the rows of a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jdl.types import Error

SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """Files and their targets, in the order of the examples."""

    root: Path
    paths: tuple[Path, ...]
    places: tuple[str, ...]  # what an error calls each file: its path, or its line in a table
    y: np.ndarray  # int32 labels or float32 targets
    labels: tuple[str, ...] = ()
    remark: str = ""  # what was found besides

    def select(self, rows: np.ndarray) -> LabelledFiles:
        """These files, in this order."""
        paths, places = ([group[row] for row in rows] for group in (self.paths, self.places))
        return replace(self, paths=tuple(paths), places=tuple(places), y=self.y[rows])


def shown(path: Path | str) -> str:
    """A path that can be printed: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def class_folders(
    root: Path, suffixes: Collection[str], labels: Sequence[str] | None
) -> LabelledFiles:
    """The files below `root`, whose labels are the folders at its first level.

    They are sorted by class and path, byte by byte. `labels` are the classes in the order of their
    numbers; by default they are the folders' names, sorted. Hidden files are left out; files of
    other suffixes are counted in `remark`.
    """
    if not root.is_dir():
        raise Error(f"{shown(root)} is not a folder: give the folder that has one for each class.")
    files, folders, repeated = _walk(root)
    wanted = [path for path in files if path.suffix.lower() in suffixes]
    loose = [path for path in wanted if path.parent == root]
    if loose:
        raise Error(
            f"{shown(loose[0])} is in no class ({len(loose)} such files): move it into a folder of "
            "its class, or name the files and their labels in a CSV file."
        )
    names = sorted((path.name for path in folders if path.parent == root), key=os.fsencode)
    paths = sorted(wanted, key=lambda path: [*map(os.fsencode, path.relative_to(root).parts)])
    classes = [path.relative_to(root).parts[0] for path in paths]
    known = _classes(root, names, set(classes), labels)
    y = np.asarray([known[name] for name in classes], np.int32)
    remark = _remark(root, len(files) - len(wanted), repeated)
    return LabelledFiles(root, tuple(paths), tuple(map(shown, paths)), y, tuple(known), remark)


def class_codes(labels: Sequence[str]) -> dict[str, int]:
    """The number of each class; `Error` where two have one name."""
    if len(set(labels)) < len(labels):
        raise Error(f"The labels {', '.join(labels)} name one class twice.")
    return {name: n for n, name in enumerate(labels)}


def _walk(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The files and folders below `root`, and links to folders that had been read already.

    Links to folders come after all real folders, and no folder is read twice: so links that loop
    end, and a folder belongs to the class that it lies in.
    """
    files: list[Path] = []
    folders: list[Path] = []
    repeated: list[Path] = []
    waiting, links = [root], list[Path]()
    seen = set()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                repeated.append(here)
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise Error(f"{shown(here)} cannot be listed: {error.strerror}.") from error
        folders.append(here)
        for entry in entries:
            if not entry.name.startswith("."):
                group = {"file": files, "folder": waiting, "link": links}[_kind(entry)]
                group.append(Path(entry.path))
    return files, folders, repeated


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link" if entry.is_dir() else "file"
    except OSError:  # a link to itself: it will be named when it cannot be read
        return "file"


def _classes(
    root: Path, names: Sequence[str], filled: set[str], labels: Sequence[str] | None
) -> dict[str, int]:
    """The number of each class; raises `Error` where the folders cannot be classes."""
    for name in names:
        if shown(name) != name:
            raise Error(
                f"The name of the folder {shown(root / name)} is not printable UTF-8, so it cannot "
                "name a class: rename it."
            )
    if labels is not None:
        if unknown := [name for name in names if name not in set(labels)]:
            raise Error(
                f"{root} has the folder {unknown[0]}, which is none of the labels "
                f"{', '.join(labels)}: rename it, or add the label."
            )
        if not filled:
            raise Error(f"The folders of {root} have no files that can be read.")
        return class_codes(labels)
    if empty := [name for name in names if name not in filled]:
        raise Error(
            f"The folder {root / empty[0]} has no files that can be read, so its class would have "
            "no examples: fill it or remove it, or name the classes, labels=[...]."
        )
    if len(names) > 1 and {name.lower() for name in names} <= SPLITS:
        raise Error(
            f"The folders of {root}, {', '.join(names)}, look like splits, not like classes: read "
            f'each by itself, the first as "{root / names[0]}". If they are classes, name them: '
            "labels=[...]."
        )
    if len(names) < 2:
        found = f"only the folder {names[0]}" if names else "no folders"
        raise Error(
            f"{root} has {found}, and a classifier needs two classes, each in a folder: give the "
            f"folder that has them. For one class, without a classifier, name it: labels=[...]."
        )
    return class_codes(names)


def _remark(root: Path, ignored: int, repeated: Sequence[Path]) -> str:
    parts = []
    if ignored:
        parts.append(f"{ignored} files of other kinds are ignored")
    if repeated:
        parts.append(
            f"{len(repeated)} links to folders that are read anyway are not followed, first "
            f"{shown(repeated[0])}"
        )
    return f"{shown(root)}: {'; '.join(parts)}." if parts else ""


def labelled_by_table(
    root: Path,
    table: Path,
    file: str,
    label: str,
    target: str | None,
    labels: Sequence[str] | None,
) -> LabelledFiles:
    """The files of a CSV file's rows, in its order; their paths are relative to `root`.

    The column `file` has the paths, and `label` the names of the classes, or else `target` numbers.
    """
    lines, names, values = [], [], []
    for line, row in table_rows(table, file, target or label):
        lines.append(line)
        names.append(row[0])
        values.append(row[1])
    if not lines:
        raise Error(f"{shown(table)} has no rows.")
    paths = tuple(root / name for name in names)
    places = tuple(
        f"{shown(path)} ({shown(table)}, line {line})"
        for path, line in zip(paths, lines, strict=True)
    )
    if target is not None:
        numbers = [
            _number(value, f"{shown(table)}, line {line}, column {target}")
            for value, line in zip(values, lines, strict=True)
        ]
        return LabelledFiles(root, paths, places, np.asarray(numbers, np.float32))
    classes = sorted(set(values)) if labels is None else list(labels)
    if len(classes) < 2 and labels is None:
        raise Error(
            f"The column {label} of {shown(table)} has only the class {classes[0]}, and a "
            "classifier needs two: for one class, without a classifier, name it: labels=[...]."
        )
    known = class_codes(classes)
    for value, line in zip(values, lines, strict=True):
        if value not in known:
            raise Error(
                f"{shown(table)}, line {line}: {value!r} is none of the labels {', '.join(known)}."
            )
    y = np.asarray([known[value] for value in values], np.int32)
    return LabelledFiles(root, paths, places, y, tuple(known))


def table_rows(table: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """The line and the values of these columns, for each row of a CSV file with a header."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = [_place(table, header, column) for column in columns]
            for row in reader:
                if len(row) not in (0, len(header)):
                    raise Error(
                        f"{shown(table)}, line {reader.line_num}, has {len(row)} values, but the "
                        f"header has {len(header)}: quote values that contain commas."
                    )
                values = [row[place].strip() for place in places if row]
                if row and not all(values):
                    empty = columns[values.index("")]
                    raise Error(
                        f"{shown(table)}, line {reader.line_num}, has no value in column {empty}."
                    )
                if row:
                    yield reader.line_num, values
    except UnicodeDecodeError as error:
        raise Error(f"{shown(table)} is not UTF-8 ({error.reason}): save it as UTF-8.") from error
    except csv.Error as error:
        raise Error(f"{shown(table)}, line {reader.line_num + 1}, is not CSV: {error}.") from error
    except OSError as error:
        raise Error(f"{shown(table)} cannot be read: {error.strerror}.") from error


def _place(table: Path, header: Sequence[str], column: str) -> int:
    if column not in header:
        raise Error(
            f"{shown(table)} has the columns {', '.join(header) or '(none)'}, and not {column}: "
            "name those of the files and of the labels, as in file='file', label='label'."
        )
    if header.count(column) > 1:
        raise Error(f"{shown(table)} has two columns {column}: rename one.")
    return header.index(column)


def _number(value: str, place: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise Error(f"{place}: {value!r} is not a number.") from error
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise Error(f"{place}: {value!r} is not a finite number of 32 bits.")
    return number
