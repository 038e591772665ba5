"""Tagged text, as a tagger predicts it: in color for a terminal, or in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

Row = dict[str, Any]
COLORS = (39, 208, 76, 204, 178, 141, 44, 160, 108, 213, 69, 136)  # of the terminal's 256


@runtime_checkable
class ReadsWords(Protocol):
    """A dataset that reads sentences of words from files, such as `jdl.data.TaggedText`."""

    def read_words(self, path: Path) -> tuple[list[str], list[Sequence[str]]] | None:
        """Where each sentence of a file is, and its words; None for another kind of file."""


def read_words(data: Any, paths: Sequence[Path]) -> list[Sequence[str]] | None:
    """The words of all sentences in the files; None where the data have no words."""
    if not isinstance(data, ReadsWords):
        return None
    read = [data.read_words(path) for path in paths]
    if any(part is None for part in read):
        return None
    return [words for part in read if part for words in part[1]]


def tagged_rows(
    names: Sequence[str],
    sentences: Sequence[Sequence[str]],
    label: np.ndarray,
    labels: Sequence[str],
) -> list[Row]:
    """A row a sentence: `input`, where it is, its words, and the names of their predicted tags."""
    return [
        {
            "input": name,
            "words": list(words),
            "tags": [labels[k] for k in row[: len(words)].tolist()],
        }
        for name, words, row in zip(names, sentences, label, strict=True)
    ]


def to_columns(rows: Sequence[Row]) -> str:
    """A word and its tag in a line, and an empty line after each sentence, as in CoNLL's data."""
    return "".join(
        "".join(f"{word}\t{tag}\n" for word, tag in zip(row["words"], row["tags"], strict=True))
        + "\n"
        for row in rows
    )


def to_color(rows: Sequence[Row]) -> str:
    """A sentence a line, for a terminal: each span in the color of its type, with its type."""
    types = sorted({kind for row in rows for kind, _ in spans(row["words"], row["tags"]) if kind})
    color = {kind: COLORS[n % len(COLORS)] for n, kind in enumerate(types)}

    def shown(kind: str, words: Sequence[str]) -> str:
        text = " ".join(words)
        return f"\x1b[1;38;5;{color[kind]}m{text}\x1b[22m/{kind}\x1b[0m" if kind else text

    lines = (" ".join(shown(*span) for span in spans(row["words"], row["tags"])) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def spans(words: Sequence[str], tags: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The spans of BIO tags and the words between them: the type, "" for O, and the words.

    Of other tags, such as parts of speech, each word is a span.
    """
    kind, span = "", list[str]()
    for word, tag in zip(words, tags, strict=True):
        if span and tag[:2] == "I-" and tag[2:] == kind:
            span.append(word)
            continue
        if span:
            yield kind, span
        kind = "" if tag == "O" else tag.removeprefix("B-").removeprefix("I-")
        span = [word]
    if span:
        yield kind, span
