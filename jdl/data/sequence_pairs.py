"""Pairs of sequences: verses in two languages, and words with their sounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.fetch import fetched
from jdl.data.order import shuffled
from jdl.types import Error

HELD_OUT = 0.05  # the share kept for validation, and again for the test
LANGUAGES = ("ar", "bn", "en", "es", "fr", "id", "ru", "sv", "tr", "ur", "zh")
LETTERS = (
    "",
    *"abcdefghijklmnopqrstuvwxyz'",
)  # what the numbers in the column x of `pronunciations` stand for

Pairs = list[tuple[str, str]]
Sounds = tuple[str, ...]


def translation(
    source: str = "en", target: str = "fr", seed: int = 0
) -> tuple[Pairs, Pairs, Pairs]:
    """Verses of the Quran in two of `LANGUAGES`, as pairs (source, target): (train, valid, test), 90%, 5% and 5%.

    `seed` decides which verse is in which part, whatever the languages. Of verses that read the same, in Arabic or in
    the source language, only the first is here: no held-out sentence was trained on.
    """
    unknown = [language for language in (source, target) if language not in LANGUAGES]
    if unknown:
        raise Error(f"The verses are in {', '.join(LANGUAGES)}, and not in {unknown[0]!r}.")
    folder = fetched("quran")
    verses = list(
        zip(*(_verses(folder, language) for language in ("ar", source, target)), strict=True)
    )
    parts: tuple[Pairs, Pairs, Pairs] = ([], [], [])
    seen: set[str] = set()
    for part, (original, sentence, translated) in zip(
        _parts(len(verses), seed), verses, strict=True
    ):
        if seen.isdisjoint((original, sentence)):
            parts[part].append((sentence, translated))
        seen |= {original, sentence}
    return parts


def pronunciations(
    seed: int = 0, stress: bool = False, longest: int = 16, frames: int = 2
) -> tuple[Dataset, Dataset, Dataset]:
    """English words and their sounds, of the CMU Pronouncing Dictionary: (train, valid, test), 90%, 5% and 5% of them.

    Columns: x (T,), letters as numbers of `LETTERS`, and `length`, how many; y (U,), phonemes as numbers of `labels`,
    and `y_length`. Both are padded with 0, which in y is CTC's blank. No word is in two parts; a word comes with all
    of its pronunciations in train, elsewhere with the first. `stress` keeps the digits of the vowels' stress. Left
    out are words of more than `longest` letters and sounds that CTC cannot fit into `frames` frames a letter ("mr").
    """
    said = _words((fetched("cmudict") / "cmudict.dict").read_text("utf-8"), stress)
    spelled = {
        word: ways
        for word, ways in said.items()
        if len(word) <= longest and set(word) <= set(LETTERS)
    }
    fitting = {
        word: [
            sounds for sounds in dict.fromkeys(ways) if frames_needed(sounds) <= frames * len(word)
        ]
        for word, ways in spelled.items()
    }
    kept = {word: ways for word, ways in fitting.items() if ways}
    if not kept:
        raise Error(
            f"No word has {longest} letters at most and fits into {frames} frames a letter: raise them."
        )
    pairs = [(word, sounds) for word, ways in kept.items() for sounds in ways]
    labels = ("", *sorted({sound for _, sounds in pairs for sound in sounds}))
    x, length = _padded([word for word, _ in pairs], LETTERS)
    y, y_length = _padded([sounds for _, sounds in pairs], labels)
    table = arrays(labels, x=x, length=length, y=y, y_length=y_length)
    part = np.repeat(_parts(len(kept), seed), [len(ways) for ways in kept.values()])
    first = np.asarray([n == 0 for ways in kept.values() for n, _ in enumerate(ways)])
    rows = (part == 0, (part == 1) & first, (part == 2) & first)
    train, valid, test = (replace(table, ids=table.ids[chosen]) for chosen in rows)
    return train, valid, test


def frames_needed(sounds: Sounds) -> int:
    """The frames that CTC needs for these labels: one each, and a blank between two that are equal."""
    return len(sounds) + sum(one == next for one, next in pairwise(sounds))


def _verses(folder: Path, language: str) -> list[str]:
    """All verses in order. Every file has the Arabic text beside its own language."""
    file, key = ("en", "text") if language == "ar" else (language, "translation")
    chapters = json.loads((folder / f"quran_{file}.json").read_text("utf-8"))
    return [verse[key] for chapter in chapters for verse in chapter["verses"]]


def _words(dictionary: str, stress: bool) -> dict[str, list[Sounds]]:
    """Every word's pronunciations, from lines like "a(2) EY1 # comment"."""
    words: dict[str, list[Sounds]] = {}
    for line in dictionary.splitlines():
        entry, *sounds = line.split("#")[0].split()
        plain = sounds if stress else [sound.rstrip("012") for sound in sounds]
        words.setdefault(entry.split("(")[0], []).append(tuple(plain))
    return words


def _parts(rows: int, seed: int) -> np.ndarray:
    """For each row the part it is in: 0 train, 1 valid, 2 test."""
    held_out = round(rows * HELD_OUT)
    parts = np.zeros(rows, np.int32)
    order = shuffled(rows, seed, name="split")
    parts[order[:held_out]] = 1
    parts[order[held_out : 2 * held_out]] = 2
    return parts


def _padded(
    sequences: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The sequences as numbers of `names`, (rows, longest), padded with 0 on the right; and how long each is."""
    number = {name: n for n, name in enumerate(names)}
    lengths = np.asarray([len(sequence) for sequence in sequences], np.int32)
    padded = np.zeros((len(sequences), lengths.max()), np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = [
        number[name] for row in sequences for name in row
    ]
    return padded, lengths
