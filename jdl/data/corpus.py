"""Text: corpora, tokenizers, and windows over packed tokens with random access."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.order import shuffled
from jdl.types import Bounds, Error, Tokenizer

PARTS = (0.94, 0.01, 0.05)  # of the documents: to train, to validate, to test
LEFT_OUT = ("test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__")


@dataclass(frozen=True)
class Bytes:
    """The tokenizer that needs no file: a token is a byte of UTF-8; 256 ends a text, 257 hides a byte."""

    size: int = 258
    end: int = 256
    mask: int | None = 257

    def encode(self, text: str) -> np.ndarray:
        """The bytes of the text, (n,) of int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; what is not UTF-8 becomes U+FFFD, and ends and masks are left out."""
        return bytes(int(token) for token in tokens if token < 256).decode(errors="replace")


ENDS = ("<|endoftext|>", "</s>", "<eos>", "[SEP]", "<|end_of_text|>")
MASKS = ("[MASK]", "<mask>", "<|mask|>")


class Subwords:
    """A tokenizer of the library `tokenizers`; `end` and `mask` are found by their usual names, or named.

    Raises `Error` where there is no end.
    """

    def __init__(self, tokenizer: Any, end: str | None = None, mask: str | None = None) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()
        ends = (end,) if end else ENDS
        found = self._find(ends)
        if found is None:
            raise Error(
                f"The tokenizer has none of the tokens {', '.join(ends)}: name its end token, end=..."
            )
        self.end: int = found
        self.mask: int | None = self._find((mask,) if mask else MASKS)

    def _find(self, names: Sequence[str]) -> int | None:
        known = (self._tokenizer.token_to_id(name) for name in names)
        return next((token for token in known if token is not None), None)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of the text, (n,) of int32, without special ones."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without special tokens."""
        return self._tokenizer.decode([int(token) for token in tokens])


def tokenizer_file(path: str | Path, end: str | None = None, mask: str | None = None) -> Subwords:
    """The tokenizer in a `tokenizer.json`, as the library `tokenizers` and the models published with it write it."""
    library = _tokenizers()
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises is a bare Exception
        raise Error(f"{path} cannot be read as a tokenizer file: {error}.") from error
    return Subwords(tokenizer, end, mask)


def bpe(texts: Sequence[str], size: int) -> Subwords:
    """A tokenizer of `size` tokens learned from these texts: bytes, and the commonest pairs merged (Sennrich, 2016)."""
    library = _tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[ENDS[0], MASKS[0]],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Subwords(tokenizer)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise Error("Subwords need the library tokenizers: pip install 'jdl[text]'.") from error
    return tokenizers


def until_end(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    """The text of tokens (n,) up to their end."""
    ends = np.flatnonzero(tokens == tokenizer.end)
    return tokenizer.decode(tokens[: ends[0]] if len(ends) else tokens)


def stdlib() -> list[str]:
    """The source of Python's own standard library, a document a file: about 10 MB of real text on every machine.

    It differs from one version of Python to another; the run's data fingerprint tells them apart.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        p for p in folder.rglob("*.py") if not set(LEFT_OUT) & set(p.relative_to(folder).parts)
    )
    texts = (path.read_text("utf-8", errors="replace") for path in paths)
    return [text for text in texts if text.strip()]


def documents(file: str | Path) -> list[str]:
    """The paragraphs of a text file, a document each: what stands between blank lines."""
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{file} cannot be read as a text in UTF-8: {error}.") from error
    found = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    if len(found) < 20:
        raise Error(
            f"{file} has {len(found)} paragraphs between blank lines, too few to hold some back for a test."
        )
    return found


def text(
    file: str | Path = "", tokenizer: Tokenizer | None = None, length: int = 128
) -> tuple[Dataset, Dataset, Dataset]:
    """Windows over the text of a file, or of the standard library: (train, valid, test), column x (length + 1,).

    No document is in two of the parts, which are 94%, 1% and 5% of them. Within a part, documents stand one after the
    other with the tokenizer's end behind each; window n has the tokens from n * length to (n + 1) * length, both
    included, so that each token is a target once in an epoch. What does not fill a window is left out.
    """
    tokenizer = tokenizer or Bytes()
    if length < 1:
        raise Error(f"A window has at least 1 token, and {length} is not that.")
    texts = documents(file) if file else stdlib()
    order = shuffled(len(texts), seed=0, name="documents")
    ends = np.rint(np.cumsum([0, *PARTS]) * len(texts)).astype(int)
    train, valid, test = (
        packed([texts[n] for n in sorted(order[start:end])], tokenizer, length)
        for start, end in pairwise(ends)
    )
    return train, valid, test


def packed(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> Dataset:
    """Windows of `length` + 1 tokens over these documents, one after the other."""
    tokens = np.concatenate(
        [np.append(tokenizer.encode(text), np.int32(tokenizer.end)) for text in texts]
    )
    source = Windows(tokens, length, sum(len(text.encode()) for text in texts) / len(tokens))
    if not len(source):
        raise Error(
            f"{len(tokens)} tokens of text do not fill one window of {length} + 1: take a smaller length."
        )
    return Dataset(source, np.arange(len(source), dtype=np.int32))


@dataclass(frozen=True, eq=False)
class Windows:
    """A source of the windows of one long row of tokens; neighbours share a token."""

    tokens: np.ndarray
    length: int
    bytes_a_token: float
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The windows x (len(rows), length + 1)."""
        starts = rows.astype(np.int64) * self.length
        return {"x": self.tokens[starts[:, None] + np.arange(self.length + 1)]}

    @property
    def nbytes(self) -> int:
        """The bytes of all windows."""
        return len(self) * (self.length + 1) * self.tokens.itemsize

    @cached_property
    def bounds(self) -> Bounds:
        """The least and the greatest token."""
        return {"x": (int(self.tokens.min()), int(self.tokens.max()))}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and the length of the windows."""
        return hashlib.sha256(f"windows {self.length}".encode() + self.tokens.tobytes()).hexdigest()


def text_pairs(texts: Sequence[tuple[str, str]], tokenizer: Tokenizer, length: int) -> Dataset:
    """Pairs of texts as columns x (S,) with `length` and y (T,) with `y_length`, each followed by the end.

    Pairs of which one has more than `length` tokens, its end included, are left out.
    """
    encoded: list[Any] = [
        [[*tokenizer.encode(text), tokenizer.end] for text in pair] for pair in texts
    ]
    kept = [pair for pair in encoded if max(len(tokens) for tokens in pair) <= length]
    if not kept:
        raise Error(
            f"None of the {len(encoded)} pairs fits into {length} tokens: take a greater length."
        )
    columns: dict[str, np.ndarray] = {}
    for side, (name, count) in enumerate((("x", "length"), ("y", "y_length"))):
        columns[count] = np.asarray([len(pair[side]) for pair in kept], np.int32)
        columns[name] = np.full((len(kept), columns[count].max()), tokenizer.end, np.int32)
        for row, pair in enumerate(kept):
            columns[name][row, : len(pair[side])] = pair[side]
    return arrays((), **columns)
