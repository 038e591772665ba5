"""Text classification and regression: texts with labels, as tokens padded to one length."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from jdl.data.bad_rows import OnBad
from jdl.data.dataset import Dataset, arrays
from jdl.data.folders import class_codes
from jdl.data.padding import padded, padded_length
from jdl.data.text_files import TextRows, read_lines, read_rows
from jdl.data.tokenizers import ByteTokenizer, encode_texts, load_tokenizer, train_bpe
from jdl.types import Error, Tokenizer

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
MANY_CLASSES = 1_000  # more, and most of them of one row: the column holds no labels
Texts = str | Path | Any


@dataclass(frozen=True, eq=False, repr=False)
class LabelledText(Dataset):
    """A dataset of labelled texts; see `labelled_text`."""

    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)
    text: tuple[str, ...] = ("text",)  # the columns of the file that the tokens are made of
    truncated: int = 0  # texts of the source that had more than `max_length` tokens
    skipped: tuple[str, ...] = ()  # bad rows of the source: where each is, and why

    def encode(self, texts: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
        """Other texts as the columns x and length, of the same shape; longer ones are truncated."""
        length = self.source.take(np.zeros(1, np.int32))["x"].shape[1]
        encoded, truncated = encode_texts(self.tokenizer, texts, length)
        _warn_truncated("The inputs", truncated, len(texts), length)
        return _columns(encoded, length)

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """A name for each row of a new file, and its columns; None for another kind of file.

        A .csv, .tsv or .jsonl file with the columns of text, or a .txt file with a text a line.
        """
        if path.suffix.lower() in TABLES:
            rows = read_rows(path, self.text, None)
            return rows.places, self.encode(rows.texts)
        if path.suffix != ".txt":
            return None
        if len(self.text) > 1:
            raise Error(f"{path}: pairs of texts are read from .csv or .jsonl files.")
        places, lines = read_lines(path)
        return places, self.encode([(line,) for line in lines])


@overload
def labelled_text(
    source: Texts,
    /,
    *,
    tokenizer: Tokenizer | str | Path | None = ...,
    vocab_size: int = ...,
    text: str | tuple[str, ...] = ...,
    label: str = ...,
    labels: Sequence[str] = ...,
    max_length: int = ...,
    on_bad: OnBad = ...,
) -> LabelledText: ...


@overload
def labelled_text(
    source: Texts,
    other: Texts,
    /,
    *others: Texts,
    tokenizer: Tokenizer | str | Path | None = ...,
    vocab_size: int = ...,
    text: str | tuple[str, ...] = ...,
    label: str = ...,
    labels: Sequence[str] = ...,
    max_length: int = ...,
    on_bad: OnBad = ...,
) -> tuple[LabelledText, ...]: ...


def labelled_text(
    *sources: Texts,
    tokenizer: Tokenizer | str | Path | None = None,
    vocab_size: int = 0,
    text: str | tuple[str, ...] = "text",
    label: str = "label",
    labels: Sequence[str] = (),
    max_length: int = 256,
    on_bad: OnBad = "raise",
) -> Any:
    """Texts with labels, for text classification or regression: `labelled_text("reviews.csv")`.

    A source is a .csv, .tsv or .jsonl file, a folder with a folder of .txt files for each class, or
    columns by name (a dict, a frame). `text` and `label` name its columns; two texts, a pair, are
    joined by the tokenizer's separator. Columns: x (T,), tokens with padding of 0; `length`, their
    number; y. Labels that are numbers stay numbers; other labels become class codes in the order of
    `labels`, by default sorted. The tokenizer is the file or object given, or BPE of `vocab_size`
    tokens trained on the first source alone, or bytes. Longer texts are truncated to `max_length`
    tokens. Several sources, such as training and test, give one dataset each, with the labels and
    the tokenizer of the first. Raises `Error` with file and line where a row is bad; with
    `on_bad="skip"` these are left out, counted, and listed in `skipped`.
    """
    names = (text,) if isinstance(text, str) else tuple(text)
    if not sources or not 1 <= len(names) <= 2:
        raise Error("labelled_text takes at least one source, and one or two columns of text.")
    tables = [read_rows(sources[0], names, label, on_bad, labels)]
    known = tuple(labels) or sorted({str(value) for value in tables[0].labels})
    tables += [read_rows(source, names, label, on_bad, known) for source in sources[1:]]
    chosen = _tokenizer(tokenizer, vocab_size, tables[0])
    targets, classes = _targets(tables, tuple(labels))
    encoded = [encode_texts(chosen, table.texts, max_length) for table in tables]
    longest = max(len(tokens) for rows, _ in encoded for tokens in rows)
    length = padded_length(longest, max_length)
    datasets = []
    for source, table, y, (rows, truncated) in zip(sources, tables, targets, encoded, strict=True):
        name = source if isinstance(source, str | Path) else "The columns"
        _warn_truncated(name, truncated, len(rows), max_length)
        plain = arrays(classes, **_columns(rows, length), y=y)
        options = (chosen, names, truncated, table.skipped)
        datasets.append(LabelledText(plain.source, plain.ids, (), plain.device_bytes, *options))
    return datasets[0] if len(datasets) == 1 else tuple(datasets)


def _tokenizer(given: Tokenizer | str | Path | None, size: int, rows: TextRows) -> Tokenizer:
    if given is not None and size:
        raise Error("Give either a tokenizer, or the vocab_size of one to train, not both.")
    if isinstance(given, str | Path):
        return load_tokenizer(given)
    if size:
        return train_bpe([text for texts in rows.texts for text in texts], size)
    return given or ByteTokenizer()


def _targets(
    tables: Sequence[TextRows], names: tuple[str, ...]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The column y of each source, and the names of the classes: those of the first source."""
    first = tables[0].labels
    if not names and not all(map(_is_number, first)):
        names = tuple(sorted({str(value) for value in first}))
    if len(names) > max(MANY_CLASSES, len(first) // 2):
        raise Error(
            f"The labels have {len(names)} different values in {len(first)} rows, so they are no "
            "classes: name the right column, label=..."
        )
    codes = class_codes(names)
    for table in tables:
        for place, value in zip(table.places, table.labels, strict=True):
            if names and str(value) not in codes:
                raise Error(
                    f"{place} has the label {value!r:.40}, which is none of the {len(names)} "
                    f"labels {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}."
                )
            if not names and not _is_number(value):
                raise Error(
                    f"{place} has the label {value!r:.40}, but those of the first source are "
                    "numbers."
                )
    if names:
        return [np.asarray([codes[str(v)] for v in t.labels], np.int32) for t in tables], names
    whole = all(_is_whole(value) for table in tables for value in table.labels)
    kind = int if whole else float
    return [np.asarray([kind(value) for value in table.labels]) for table in tables], ()


def _is_number(value: Any) -> bool:
    """Whether a label is a finite number, or is written as one."""
    try:
        return not isinstance(value, bool | np.bool) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _is_whole(value: Any) -> bool:
    """Whether a number is whole, and is written so: 3, not 3.0."""
    if isinstance(value, str):
        return value.strip().lstrip("+-").isdecimal()
    return isinstance(value, int | np.integer)


def _columns(rows: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Tokens as x (N, length), padded with 0, and their numbers."""
    x, lengths = padded(rows, length)
    return {"x": x, "length": lengths}


def _warn_truncated(name: Any, truncated: int, rows: int, length: int) -> None:
    if truncated:
        warnings.warn(
            f"{name}: {truncated} of {rows} texts have more than {length} tokens and are "
            "truncated.",
            stacklevel=3,
        )
