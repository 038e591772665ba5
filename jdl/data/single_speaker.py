"""Numbers that one voice says: text to speech, made by the speech synthesis of espeak-ng."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset
from jdl.data.order import split_rows
from jdl.data.speech_synthesis import Utterance
from jdl.data.spoken_numbers import in_words, spoken
from jdl.types import Error

VOICE = ("en-us", "Alex", 50, 170)  # accent, voice, pitch and speed
SPLITS = (0.8, 0.1, 0.1)


def single_speaker_numbers(numbers: int = 1_000, seed: int = 0) -> tuple[Dataset, Dataset, Dataset]:
    """Numbers in the voice of one speaker, for text to speech: (train, valid, test).

    The columns are those of `spoken_numbers`, which is for speech recognition: the waveform x,
    `length`, the letters y, and `y_length`. One voice of the program espeak-ng says the numbers
    from 0 to `numbers` - 1, up to 999, always in the same pitch and speed. "Three hundred and
    seven" is also said without "and". Of the numbers, 80% are in training and 10% each in
    validation and test, drawn from `seed`: those to test on are never said in training.

    espeak-ng must be installed. What it says is kept in jdl's cache.
    """
    if not 10 <= numbers <= 1_000:
        raise Error(f"single_speaker_numbers says from 10 to 1,000 numbers, not {numbers}.")
    train, valid, test = (_said(rows) for rows in split_rows(numbers, SPLITS, seed, "numbers"))
    return train, valid, test


def _said(numbers: np.ndarray) -> Dataset:
    """The numbers, each as often as there are ways to say it."""
    spellings = ((in_words(n), in_words(n, "")) for n in numbers.tolist())
    texts = [text for pair in spellings for text in dict.fromkeys(pair)]
    return spoken([Utterance(text, *VOICE) for text in texts])
