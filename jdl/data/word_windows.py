"""Windows of words for word vectors: frequent words left out, and queries such as a - b + c."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.padding import padded
from jdl.data.scenes import raw_draws, within
from jdl.data.text_files import read_lines
from jdl.types import Error


@dataclass(frozen=True, eq=False, repr=False)
class WordWindows(Dataset):
    """A dataset of windows of words; see `word_windows`. `labels` is the vocabulary.

    `counts` has how often each word of the vocabulary is in the texts.
    """

    counts: tuple[int, ...] = ()

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The queries of a .txt file, one a line: a word, or a sum such as `reader - read + write`.

        Columns x, length and `sign`, which is 1 or -1 for each word. None for another kind of file.
        """
        if path.suffix != ".txt":
            return None
        places, lines = read_lines(path)
        steps = self.source.take(np.zeros(1, np.int32))["x"].shape[1]
        index = {word: n for n, word in enumerate(self.labels)}
        queries = [_query(line, place) for line, place in zip(lines, places, strict=True)]
        for query, place in zip(queries, places, strict=True):
            if len(query) > steps:
                raise Error(f"{place} has {len(query)} words, and a row holds at most {steps}.")
            if unknown := next((word for _, word in query if word not in index), None):
                raise Error(f"{place}: the word {unknown!r} is not in the vocabulary.")
        x, length = padded([[index[word] for _, word in query] for query in queries], steps)
        sign, _ = padded([[sign for sign, _ in query] for query in queries], steps)
        names = [line.strip() for line in lines]
        return names, {"x": x, "length": length, "sign": sign}


def word_windows(
    sentences: Sequence[Sequence[str]],
    min_count: int = 5,
    subsample: float = 1e-3,
    length: int = 32,
    seed: int = 0,
) -> WordWindows:
    """Windows of words, for word vectors by `jdl.objectives.skip_gram`.

    `sentences` are lists of words: sentences, or whole texts. The vocabulary are the words that
    occur `min_count` times or more, the most frequent first; all others are left out. Of frequent
    words some are left out too (subsampling; Mikolov et al., 2013): a word whose share of the text
    is f stays with the probability sqrt(subsample / f) + subsample / f. Each place is drawn once,
    by (seed, place), and not in every epoch; 0 leaves none out. Then sentences are cut into windows
    of `length` words; contexts do not cross their borders. Columns: x (length,), indices of
    `labels`, and `length`, the number of words.
    """
    if length < 2 or min_count < 1 or subsample < 0:
        raise Error(
            "word_windows takes a length of 2 words or more, a min_count of 1 or more, and 0 or a "
            f"number above it for subsample, not {length}, {min_count} and {subsample}."
        )
    if any(isinstance(sentence, str) for sentence in sentences):
        raise Error('word_windows takes lists of words, such as [["a", "b"]], and not texts.')
    found = Counter(word for sentence in sentences for word in sentence)
    frequent = sorted((word for word, count in found.items() if count >= min_count), key=str)
    vocabulary = sorted(frequent, key=lambda word: -found[word])
    if len(vocabulary) < 2:
        raise Error(f"Fewer than two words occur {min_count} times: give more text.")
    index = {word: n for n, word in enumerate(vocabulary)}
    coded = [[index[word] for word in sentence if word in index] for sentence in sentences]
    counts = np.asarray([found[word] for word in vocabulary])
    kept = _kept(np.concatenate(coded).astype(np.int32), counts, subsample, seed)
    ends = np.cumsum([len(sentence) for sentence in coded])[:-1]
    parts = [
        words[keep][n : n + length]
        for words, keep in zip(map(np.asarray, coded), np.split(kept, ends), strict=True)
        for n in range(0, int(keep.sum()), length)
    ]
    windows = [part for part in parts if len(part) > 1]
    if not windows:
        raise Error(
            "No sentence has two words left after subsampling: in short texts all words are "
            "frequent. Give a larger subsample, or 0 to leave none out."
        )
    x, lengths = padded(windows, length)
    plain = arrays(vocabulary, x=x, length=lengths)
    return WordWindows(plain.source, plain.ids, counts=tuple(counts.tolist()))


def _kept(words: np.ndarray, counts: np.ndarray, subsample: float, seed: int) -> np.ndarray:
    """Which of the words of a text (N,) stay, after subsampling of frequent ones."""
    if not subsample:
        return np.ones(len(words), bool)
    share = subsample * counts.sum() / counts
    uniform = within({"u": (0.0, 1.0)}, raw_draws(len(words), 1, seed, "subsample"))["u"]
    return uniform < (np.sqrt(share) + share)[words]


def _query(line: str, place: str) -> list[tuple[int, str]]:
    """The signs and words of a sum: `a - b + c`."""
    parts = ["+", *line.split()]
    signs, words = parts[::2], parts[1::2]
    if len(signs) != len(words) or set(signs) - {"+", "-"} or {"+", "-"} & set(words):
        raise Error(f"{place} must be a word, or a sum such as reader - read + write.")
    return [(1 if sign == "+" else -1, word) for sign, word in zip(signs, words, strict=True)]
