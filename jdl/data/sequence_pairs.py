"""Sequence-to-sequence datasets: a parallel corpus for translation, a pronouncing dictionary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.fetch import dataset_folder
from jdl.data.order import permutation
from jdl.types import Error

HELD_OUT = 0.05  # the fraction held out for validation, and again for the test
LANGUAGES = ("ar", "bn", "en", "es", "fr", "id", "ru", "sv", "tr", "ur", "zh")
# The vocabulary of the column x of `pronunciations`; "" is the padding.
LETTERS = ("", *"abcdefghijklmnopqrstuvwxyz'")

Pairs = list[tuple[str, str]]
Phonemes = tuple[str, ...]


def translation(
    source: str = "en", target: str = "fr", seed: int = 0
) -> tuple[Pairs, Pairs, Pairs]:
    """A parallel corpus for machine translation: verses of the Quran in two of `LANGUAGES`.

    Returns lists of pairs (source, target): (train, valid, test), 90%, 5% and 5%. `seed` determines
    the split of each verse, the same in all languages. Of verses with the same text, in Arabic or
    in the source language, only the first is used, so that no held-out sentence was trained on.
    Fetch it once with `jdl data fetch quran`.
    """
    unknown = [language for language in (source, target) if language not in LANGUAGES]
    if unknown:
        raise Error(f"The verses are in {', '.join(LANGUAGES)}, and not in {unknown[0]!r}.")
    folder = dataset_folder("quran")
    verses = list(
        zip(*(_verses(folder, language) for language in ("ar", source, target)), strict=True)
    )
    splits: tuple[Pairs, Pairs, Pairs] = ([], [], [])
    earlier: set[str] = set()
    for split, (original, sentence, translated) in zip(
        _split(len(verses), seed), verses, strict=True
    ):
        if earlier.isdisjoint((original, sentence)):
            splits[split].append((sentence, translated))
        earlier |= {original, sentence}
    return splits


def quran_places() -> tuple[dict[str, list[str]], ...]:
    """The verses of the Quran in English, and whether each was revealed in Mecca or in Medina.

    Returns columns `text` and `label`: (train, valid, test), of 3,887, 1,212 and 1,137 verses. They
    are split by whole chapters, as the place is that of the chapter: of every five chapters the
    third is for validation and the fourth for the test. Fetch it once with `jdl data fetch quran`.
    """
    text = (dataset_folder("quran") / "quran_en.json").read_text("utf-8")
    parts: tuple[dict[str, list[str]], ...] = tuple({"text": [], "label": []} for _ in range(3))
    for n, chapter in enumerate(json.loads(text)):
        part = parts[{2: 1, 3: 2}.get(n % 5, 0)]
        for verse in chapter["verses"]:
            part["text"].append(verse["translation"])
            part["label"].append(chapter["type"])
    return parts


def pronunciations(
    seed: int = 0, stress: bool = False, max_length: int = 16, frames: int = 2
) -> tuple[Dataset, Dataset, Dataset]:
    """Grapheme-to-phoneme conversion: the words of the CMU Pronouncing Dictionary, and phonemes.

    Returns datasets (train, valid, test) of 90%, 5% and 5% of the words. Columns: x (T,), letters
    as indices of `LETTERS`, and `length`, their number; y (U,), phonemes as indices of `labels`,
    and `y_length`. Both are padded with 0, which in y is CTC's blank. No word is in two splits;
    train has all pronunciations of a word, valid and test only the first. `stress` keeps the
    digits of the vowels' stress. Words of more than `max_length` letters are left out, and
    pronunciations that CTC cannot fit into `frames` frames per letter ("mr"). Fetch it once with
    `jdl data fetch cmudict`.
    """
    text = (dataset_folder("cmudict") / "cmudict.dict").read_text("utf-8")
    words: dict[str, list[Phonemes]] = {}
    for word, ways in _dictionary(text, stress).items():
        if len(word) > max_length or not set(word) <= set(LETTERS):
            continue
        most = frames * len(word)
        fitting = [phonemes for phonemes in dict.fromkeys(ways) if frames_needed(phonemes) <= most]
        if fitting:
            words[word] = fitting
    if not words:
        raise Error(
            f"No word has {max_length} letters at most and fits into {frames} frames per letter: "
            "raise max_length or frames."
        )
    pairs = [(word, phonemes) for word, ways in words.items() for phonemes in ways]
    labels = ("", *sorted({phoneme for _, phonemes in pairs for phoneme in phonemes}))
    x, length = _pad([word for word, _ in pairs], LETTERS)
    y, y_length = _pad([phonemes for _, phonemes in pairs], labels)
    dataset = arrays(labels, x=x, length=length, y=y, y_length=y_length)
    split = np.repeat(_split(len(words), seed), [len(ways) for ways in words.values()])
    first = np.asarray([n == 0 for ways in words.values() for n, _ in enumerate(ways)])
    train = dataset.select(split == 0)
    valid, test = (dataset.select((split == n) & first) for n in (1, 2))
    return train, valid, test


def frames_needed(phonemes: Phonemes) -> int:
    """The number of frames that CTC needs: one per label, and a blank between two equal labels."""
    return len(phonemes) + sum(one == other for one, other in pairwise(phonemes))


def _verses(folder: Path, language: str) -> list[str]:
    """All verses in order. Every file has the Arabic text beside its own language."""
    file, key = ("en", "text") if language == "ar" else (language, "translation")
    chapters = json.loads((folder / f"quran_{file}.json").read_text("utf-8"))
    return [verse[key] for chapter in chapters for verse in chapter["verses"]]


def _dictionary(text: str, stress: bool) -> dict[str, list[Phonemes]]:
    """Every word's pronunciations, from lines like "a(2) EY1 # comment"."""
    words: dict[str, list[Phonemes]] = {}
    for line in text.splitlines():
        entry, *phonemes = line.split("#")[0].split()
        plain = phonemes if stress else [phoneme.rstrip("012") for phoneme in phonemes]
        words.setdefault(entry.split("(")[0], []).append(tuple(plain))
    return words


def _split(rows: int, seed: int) -> np.ndarray:
    """The split of each row (rows,): 0 train, 1 valid, 2 test."""
    held_out = round(rows * HELD_OUT)
    splits = np.zeros(rows, np.int32)
    order = permutation(rows, seed, name="split")
    splits[order[:held_out]] = 1
    splits[order[held_out : 2 * held_out]] = 2
    return splits


def _pad(
    sequences: Sequence[Sequence[str]], vocabulary: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The sequences as indices (rows, longest), padded with 0 on the right, and their lengths."""
    ids = {token: n for n, token in enumerate(vocabulary)}
    lengths = np.asarray([len(sequence) for sequence in sequences], np.int32)
    padded = np.zeros((len(sequences), lengths.max()), np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = [
        ids[token] for sequence in sequences for token in sequence
    ]
    return padded, lengths
