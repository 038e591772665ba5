"""Text datasets: corpora for language modelling, and pairs of texts for translation."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.order import split_rows
from jdl.data.padding import padded
from jdl.data.tokenizers import ByteTokenizer
from jdl.types import Bounds, Error, Tokenizer

SPLITS = (0.94, 0.01, 0.05)  # of the documents: training, validation, test
MIN_DOCUMENTS = 100  # 1% of fewer might be none
EXCLUDED = ("test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__")


def stdlib() -> list[str]:
    """A text corpus that every machine has: the source of Python's standard library.

    About 10 MB, one document per file. It differs from one version of Python to another, and so
    does the fingerprint of the data in a run's record.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        p for p in folder.rglob("*.py") if not set(EXCLUDED) & set(p.relative_to(folder).parts)
    )
    texts = (path.read_text("utf-8", errors="replace") for path in paths)
    return [text for text in texts if text.strip()]


def documents(file: str | Path) -> list[str]:
    """The documents of a text file: its paragraphs, which blank lines separate."""
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{file} cannot be read as UTF-8 text: {error}.") from error
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    if len(paragraphs) < MIN_DOCUMENTS:
        raise Error(
            f"{file} has {len(paragraphs)} paragraphs, too few to split into training, validation "
            f"and test: at least {MIN_DOCUMENTS} are needed, separated by blank lines."
        )
    return paragraphs


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """A source of windows of one long token sequence; neighbouring windows share a token.

    With `starts`, where each document begins, windows have a column `segment` too.
    """

    tokens: np.ndarray
    length: int
    bytes_per_token: float
    labels: tuple[str, ...] = ()
    starts: np.ndarray | None = None

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The windows x (len(rows), length + 1), and which document of its row a token is of."""
        starts = rows.astype(np.int64) * self.length
        places = starts[:, None] + np.arange(self.length + 1)
        x = self.tokens[places]
        if self.starts is None:
            return {"x": x}
        document = np.searchsorted(self.starts, places, "right").astype(np.int32)
        return {"x": x, "segment": document - document[:, :1]}

    @property
    def nbytes(self) -> int:
        """The size of all windows in bytes."""
        columns = 1 if self.starts is None else 2
        return len(self) * (self.length + 1) * self.tokens.itemsize * columns

    @cached_property
    def bounds(self) -> Bounds:
        """The smallest and the largest token."""
        return {"x": (int(self.tokens.min()), int(self.tokens.max()))}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens, the length of the windows, and where documents begin."""
        starts = b"" if self.starts is None else b" apart " + self.starts.tobytes()
        form = f"windows {self.length}".encode() + starts
        return hashlib.sha256(form + self.tokens.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class TextDataset(Dataset):
    """A dataset of windows over tokens, for language modelling."""

    source: TokenWindows

    @property
    def tokens(self) -> np.ndarray:
        """All tokens of the source, (n,)."""
        return self.source.tokens

    @property
    def bytes_per_token(self) -> float:
        """The mean length of a token in bytes of UTF-8, ends included but no starts."""
        return self.source.bytes_per_token


def text(
    file: str | Path = "",
    tokenizer: Tokenizer | None = None,
    length: int = 128,
    separate: bool = False,
) -> tuple[TextDataset, TextDataset, TextDataset]:
    """Datasets for language modelling: (train, valid, test), windows x (length + 1,) of a corpus.

    The corpus is a text file, or Python's standard library. 94%, 1% and 5% of its documents go to
    the three splits. Within a split they are packed, and with `separate` do not see each other; see
    `pack`.
    """
    tokenizer = tokenizer or ByteTokenizer()
    texts = documents(file) if file else stdlib()
    train, valid, test = (
        pack([texts[n] for n in rows], tokenizer, length, separate)
        for rows in split_rows(len(texts), SPLITS, seed=0, name="documents")
    )
    return train, valid, test


def pack(
    texts: Sequence[str], tokenizer: Tokenizer, length: int, separate: bool = False
) -> TextDataset:
    """Sequence packing: windows x (length + 1,) of documents that are concatenated.

    The tokenizer's end token is after each document. Window n has the tokens from n * length to
    (n + 1) * length, both included, so that each token is a target once an epoch. A remainder that
    does not fill a window is dropped. With `separate` there is a column `segment` (length + 1,)
    with the number of each token's document in its window, by which `next_token` and GPT keep
    documents apart: attention and positions begin again with each (document masking). The end token
    is then before each document too, as its start: its first token is predicted from it, as
    `jdl sample` begins a text.
    """
    if length < 1:
        raise Error(f"length is the number of tokens in a window, at least 1, not {length}.")
    if isinstance(texts, str) or not texts:
        raise Error("pack takes a list of texts, with one at least.")
    end = np.asarray([tokenizer.eos_id], np.int32)
    start = end[: int(separate)]
    rows = [np.concatenate([start, tokenizer.encode(text), end]) for text in texts]
    tokens = np.concatenate(rows)
    predicted = len(tokens) - len(rows) * len(start)
    bytes_per_token = sum(len(text.encode()) for text in texts) / predicted
    starts = np.cumsum([0, *map(len, rows[:-1])], dtype=np.int64) if separate else None
    source = TokenWindows(tokens, length, bytes_per_token, starts=starts)
    if not len(source):
        raise Error(
            f"{len(tokens)} tokens of text do not fill one window of {length} + 1: choose a "
            "smaller length."
        )
    return TextDataset(source, np.arange(len(source), dtype=np.int32))


def text_pairs(
    texts: Sequence[tuple[str, str]], tokenizer: Tokenizer, length: int, truncate: bool = False
) -> Dataset:
    """A dataset of pairs of texts (source, target), for translation or for retrieval.

    Columns: x (S,), the tokens of the source, and `length`, their number; y (T,), those of the
    target, and `y_length`. Each sequence ends with the end token, which is also the padding. Pairs
    with more than `length` tokens on one side, the end token included, are left out; with
    `truncate` the tokens beyond are, but the end token.
    """
    most = length - 1 if truncate else None
    encoded: list[Any] = [
        [[*tokenizer.encode(text)[:most], tokenizer.eos_id] for text in pair] for pair in texts
    ]
    pairs = [pair for pair in encoded if max(len(tokens) for tokens in pair) <= length]
    if not pairs:
        raise Error(
            f"None of the {len(encoded)} pairs fits into {length} tokens: choose a larger length."
        )
    columns: dict[str, np.ndarray] = {}
    for name, count, rows in zip(
        "xy", ("length", "y_length"), zip(*pairs, strict=True), strict=True
    ):
        columns[name], columns[count] = padded(rows, max(map(len, rows)), fill=tokenizer.eos_id)
    return arrays((), **columns)
