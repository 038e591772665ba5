"""Spoken numbers: speech recognition, made by the speech synthesis of espeak-ng."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase

import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Example
from jdl.data.dataset import Dataset
from jdl.data.decoded_files import naming, open_file
from jdl.data.scenes import raw_draws
from jdl.data.source import ArraySource
from jdl.data.speech_synthesis import (
    TEST,
    TRAINING,
    VALIDATION,
    Utterance,
    drawn_utterance,
    speak,
)
from jdl.data.transcripts import SpeechDecoder, encode
from jdl.types import Error, Key

RATE, SAMPLES = 8_000, 20_480  # samples a second, and of a row: 2.56 s
ALPHABET = f" {ascii_lowercase}"
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
NUMBER_WORDS = (*NUMBERS.split(), "hundred", "and")
"""The words in which the numbers from 0 to 999 are said."""
LETTERS = 31  # of the longest number, with its spaces


def spoken_numbers(
    train: int = 6_000, test: int = 1_000, seed: int = 0
) -> tuple[Dataset, Dataset, Dataset]:
    """Numbers from 0 to 999, spoken in English, for speech recognition: (train, valid, test).

    Columns: the waveform x (20,480,) from -1 to 1, 2.56 s at 8,000 samples a second; `length`, how
    many of them are spoken; y, the number's letters and spaces as indices of `labels`, padded with
    0, which is CTC's blank; and `y_length`, their number. 95 voices of the program espeak-ng speak,
    in 8 accents, each utterance in another pitch and speed: 71 voices in training, 8 others in
    validation, 16 others in the test, which have `test` rows each. "Three hundred and seven" is
    also said without "and". A third of the numbers are up to 9, a third up to 99.

    Utterance i is a function of (seed, i) and of the version of espeak-ng, which must be installed;
    with more utterances the first ones stay the same. They are kept in jdl's cache: making one
    takes 20 milliseconds of a core of an AMD EPYC.
    """
    if min(train, test) < 1:
        raise Error(
            f"spoken_numbers takes numbers of utterances, at least 1, not {train} and {test}."
        )
    parts = {"train": (TRAINING, train), "valid": (VALIDATION, test), "test": (TEST, test)}
    made = [_part(name, voices, rows, seed) for name, (voices, rows) in parts.items()]
    return made[0], made[1], made[2]


def in_words(number: int, conjunction: str = "and") -> str:
    """A number from 0 to 999 in English words: in_words(307) is "three hundred and seven"."""
    if not 0 <= number <= 999:
        raise Error(f"in_words takes numbers from 0 to 999, not {number}.")
    hundreds, rest = divmod(number, 100)
    words = [NUMBER_WORDS[hundreds], "hundred"] if hundreds else []
    if hundreds and rest and conjunction:
        words.append(conjunction)
    if rest >= 20:
        words.append(NUMBER_WORDS[18 + rest // 10])
        rest %= 10
    if rest or not words:
        words.append(NUMBER_WORDS[rest])
    return " ".join(words)


def _part(name: str, voices: str, rows: int, seed: int) -> Dataset:
    draws = raw_draws(rows, 7, seed, f"spoken_numbers {name}")
    return spoken([_utterance(draw, voices.split()) for draw in draws.tolist()])


def spoken(utterances: Sequence[Utterance]) -> Dataset:
    """The waveforms of utterances, and their letters."""
    x, length = speak(utterances, RATE, SAMPLES)
    y, y_length = encode([utterance.text for utterance in utterances], ALPHABET, LETTERS)
    columns = {"x": x, "length": length, "y": y, "y_length": y_length}
    source = Utterances(columns, ("", *ALPHABET))
    return Dataset(source, np.arange(len(utterances), dtype=np.int32)).map(to_waveform)


def _utterance(draws: Sequence[int], voices: Sequence[str]) -> Utterance:
    digits, number, conjunction, *speech = draws
    text = in_words(number % 10 ** (1 + digits % 3), ("and", "")[conjunction % 2])
    return drawn_utterance(text, speech, voices)


@dataclass(frozen=True, eq=False)
class Utterances(ArraySource):
    """Waveforms of 16 bits in memory; new sound files are read likewise."""

    rate: int = field(default=RATE, kw_only=True)  # samples a second

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The name and the columns of a sound file; None for another kind of file."""
        waveform = read_waveform(path, self.rate, self.columns["x"].shape[1])
        if waveform is None:
            return None
        x = np.zeros((1, self.columns["x"].shape[1]), np.int16)
        x[0, : len(waveform)] = waveform
        return [str(path)], {"x": x, "length": np.asarray([len(waveform)], np.int32)}


def read_waveform(path: Path, rate: int, most: int) -> np.ndarray | None:
    """The samples (n,) of int16 of a sound file, at `most` that many; None if it is none."""
    decoder = SpeechDecoder(rate, most)
    if path.suffix.lower() not in decoder.suffixes:
        return None
    with naming(str(path)), open_file(path) as file:
        example = decoder.decode(file)
    waveform = example["x"][: int(example["length"])]
    return np.rint(waveform * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)


def to_waveform(key: Key, example: Example) -> Example:
    """The waveform x of 16 bits as float32 from -1 to 1."""
    return {**example, "x": example["x"].astype(jnp.float32) * np.float32(2.0**-15)}
