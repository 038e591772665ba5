"""A report before it is written: sections of sentences, tables, pictures and commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MARK = "Written by jdl report"  # in each report: no other file is replaced by one


@dataclass(frozen=True)
class Table:
    """A table of text: a head, and rows of as many cells."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Picture:
    """A picture as the bytes of a file, with the text for those who do not see it."""

    content: bytes
    kind: str  # image/webp, ...
    width: int
    height: int
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()
    folded: Sequence[Table] = field(default=())  # tables that open at a click
    has_curves: bool = False


@dataclass(frozen=True)
class Document:
    """A report: its title and its sections."""

    title: str
    sections: Sequence[Section]


def counted(number: int, word: str) -> str:
    """A number of things in words: 1 run, 2 runs."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
