"""Tagged text: sentences of words with a tag each, such as parts of speech or named entities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.padding import padded, padded_length
from jdl.data.text_files import read_lines
from jdl.types import Error

Words = Sequence[str]
Tags = Sequence[str]
PADDING = "<padding>"
SHAPES = ("<unk>", "<Unk>", "<UNK>", "<unk_unk>", "<?>")  # of words outside the vocabulary


@dataclass(frozen=True, eq=False, repr=False)
class TaggedText(Dataset):
    """A dataset of tagged sentences; see `tagged_text`."""

    vocabulary: tuple[str, ...] = ()  # the word of each index

    def encode(self, sentences: Sequence[Words]) -> dict[str, np.ndarray]:
        """Other sentences as the columns x and length, of the same shape."""
        steps = self.source.take(np.zeros(1, np.int32))["x"].shape[1]
        return _columns(sentences, self.vocabulary, steps)

    def read_words(self, path: Path) -> tuple[list[str], list[Words]] | None:
        """The sentences of a .txt file, one a line, with spaces between words; and where each is.

        A longer line than those of the dataset makes several. None for another kind of file.
        """
        if path.suffix != ".txt":
            return None
        places, lines = read_lines(path)
        return self.fit(places, [line.split() for line in lines])

    def fit(self, places: list[str], sentences: list[Words]) -> tuple[list[str], list[Words]]:
        """Cuts sentences that are longer than those of the dataset; `places` are where they are."""
        steps = self.source.take(np.zeros(1, np.int32))["x"].shape[1]
        parts = [
            (place, words[n : n + steps])
            for place, words in zip(places, sentences, strict=True)
            for n in range(0, len(words), steps)
        ]
        return [place for place, _ in parts], [words for _, words in parts]

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """Where each sentence of a new file is, and its columns; None for another kind of file."""
        read = self.read_words(path)
        return None if read is None else (read[0], self.encode(read[1]))


def tagged_text(
    train: Sequence[tuple[Words, Tags]],
    *others: Sequence[tuple[Words, Tags]],
    min_count: int = 2,
    max_length: int = 64,
) -> tuple[TaggedText, ...]:
    """Sentences with tags, for part-of-speech tagging or named entity recognition (NER).

    `train` and `others`, such as validation and test, are lists of sentences, pairs of words and
    their tags: `(["Ada", "sleeps"], ["B-person", "O"])`. Each list gives a dataset. Columns: x
    (T,), words as indices of the `vocabulary`, padded with 0; `length`, their number; y (T,), tags
    as indices of `labels`, padded with -1. The labels are the tags of the training data, sorted;
    the vocabulary is its words that occur `min_count` times or more, with each digit as 0. Any
    other word is one of `SHAPES`: whether it has capitals, and so on. A sentence of more than
    `max_length` words is cut into several, outside of spans of BIO tags if possible. Raises `Error`
    for a tag that is not in the training data, and for I-x that follows neither B-x nor I-x.
    """
    if max_length < 1:
        raise Error(f"max_length must be at least 1 word, not {max_length}.")
    parts = (train, *others)
    for part in parts:
        _check(part)
    cut = [[piece for pair in part for piece in _pieces(*pair, max_length)] for part in parts]
    counts = Counter(plain(word) for words, _ in train for word in words)
    special = (PADDING, *SHAPES)
    frequent = (word for word, count in counts.items() if count >= min_count)
    vocabulary = (*special, *sorted(word for word in frequent if word not in special))
    labels = tuple(sorted({tag for _, tags in train for tag in tags}))
    longest = max(len(words) for part in cut for words, _ in part)
    steps = padded_length(longest)
    datasets = []
    for part in cut:
        columns = _columns([words for words, _ in part], vocabulary, steps)
        columns["y"] = _labels(part, labels, steps)
        data = arrays(labels, **columns)
        datasets.append(TaggedText(data.source, data.ids, vocabulary=vocabulary))
    return tuple(datasets)


def plain(word: str) -> str:
    """A word as it is looked up in the vocabulary: with 0 for each digit."""
    return re.sub(r"\d", "0", word)


def shape(word: str) -> str:
    """Which of `SHAPES` a word has: letters, a capital, capitals, an underscore within, others."""
    word = word.strip("_")
    if "_" in word:
        return "<unk_unk>"
    if not word[:1].isalpha():
        return "<?>"
    if word.isupper():
        return "<UNK>"
    return "<Unk>" if word[0].isupper() else "<unk>"


def _check(sentences: Sequence[tuple[Words, Tags]]) -> None:
    """Raises `Error` with the number of the first sentence that cannot be used."""
    if not sentences:
        raise Error("There are no sentences in one of the parts.")
    for n, (words, tags) in enumerate(sentences):
        if not len(words) or len(words) != len(tags):
            raise Error(
                f"Sentence {n} has {len(words)} words and {len(tags)} tags: each needs a word at "
                "least, and a tag for each word."
            )
        for k, (before, tag) in enumerate(zip(("O", *tags), tags, strict=False)):
            if tag.startswith("I-") and before[1:] != tag[1:]:
                raise Error(
                    f"Word {k} of sentence {n}, {words[k]!r}, has the tag {tag} after {before}: a "
                    f"span begins with B-{tag[2:]}."
                )


def _pieces(words: Words, tags: Tags, length: int) -> list[tuple[Words, Tags]]:
    """A sentence in pieces of at most that length, which begin with no I-x if that is possible."""
    pieces = []
    while len(words) > length:
        ends = (n for n in range(length, 0, -1) if not tags[n].startswith("I-"))
        end = next(ends, length)
        pieces.append((words[:end], tags[:end]))
        words, tags = words[end:], tags[end:]
    return [*pieces, (words, tags)]


def _columns(
    sentences: Sequence[Words], vocabulary: Sequence[str], steps: int
) -> dict[str, np.ndarray]:
    """Words as x (N, steps), padded with 0, and their numbers."""
    index = {word: n for n, word in enumerate(vocabulary)}
    plains = ([plain(word) for word in words] for words in sentences)
    codes = [[index[w] if w in index else index[shape(w)] for w in words] for words in plains]
    x, lengths = padded(codes, steps)
    return {"x": x, "length": lengths}


def _labels(part: Sequence[tuple[Words, Tags]], labels: Tags, steps: int) -> np.ndarray:
    """Tags as y (N, steps), padded with -1."""
    index = {tag: n for n, tag in enumerate(labels)}
    y = np.full((len(part), steps), -1, np.int32)
    for n, (words, tags) in enumerate(part):
        for k, tag in enumerate(tags):
            if tag not in index:
                raise Error(
                    f"The word {words[k]!r} has the tag {tag}, which is not in the training data: "
                    f"{', '.join(labels)}."
                )
            y[n, k] = index[tag]
    return y
