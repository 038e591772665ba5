"""Spoken keywords: keyword spotting and voice activity, made by the speech synthesis espeak-ng."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset
from jdl.data.noise import babble, pink_noise, white_noise
from jdl.data.scenes import raw_draws
from jdl.data.speech_synthesis import TEST, TRAINING, VALIDATION, drawn_utterance, speak
from jdl.data.spoken_numbers import Utterances, read_waveform, to_waveform
from jdl.types import Error

RATE = SAMPLES = 16_000  # samples a second, and of a row: 1 s
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
LABELS = (*KEYWORDS, "unknown", "silence")
UNKNOWN, SILENCE = len(KEYWORDS), len(KEYWORDS) + 1
OTHERS = (  # of Speech Commands
    "backward bed bird cat dog eight five follow forward four happy house learn marvin nine one "
    "seven sheila six three tree two visual wow zero"
)
OTHER_WORDS = tuple(OTHERS.split())
CLIPS, VOICES = 24, 6  # recordings of each kind of noise, and voices of one of babble
LONGEST = 600  # seconds of a sound file
LOUDNESS = (100, 4_000)  # the root mean square of a silence, of 16-bit samples


def spoken_keywords(
    train: int = 6_000, test: int = 1_200, seed: int = 0
) -> tuple[KeywordDataset, KeywordDataset, KeywordDataset]:
    """Ten spoken words, other words, and silence, for keyword spotting: (train, valid, test).

    Silence against the rest is voice activity detection. The classes are those of Speech Commands
    (Warden, 2018): the words yes, no, up, down, left, right, on, off, stop and go, "unknown" for 25
    other words, and "silence" for noise alone, each in a twelfth of the rows. Columns: the waveform
    x (16,000,) from -1 to 1, 1 s at 16,000 samples a second, in which the word stands at a random
    place; `length`, 16,000; and y, the class. 95 voices of the program espeak-ng speak, in 8
    accents, each word in another pitch and speed: 71 voices in training, 8 others in validation, 16
    others in the test, which have `test` rows each.

    Words are spoken without noise, which `jdl.data.mix_noise` adds: `train.noise` (72, 16,000) has
    white noise, pink noise, and babble of the other words in the split's own voices. Row i is a
    function of (seed, i) and of the version of espeak-ng, which must be installed; with more rows
    the first ones stay the same. Words are kept in jdl's cache: making one takes 20 milliseconds of
    a core of an AMD EPYC.
    """
    if min(train, test) < 1:
        raise Error(f"spoken_keywords takes numbers of rows, at least 1, not {train} and {test}.")
    parts = {"train": (TRAINING, train), "valid": (VALIDATION, test), "test": (TEST, test)}
    made = [_part(name, voices.split(), rows, seed) for name, (voices, rows) in parts.items()]
    return made[0], made[1], made[2]


@dataclass(frozen=True, eq=False)
class SpokenWords(Utterances):
    """Waveforms of 1 s with one word or with noise alone, and noise to be added to them."""

    noise: np.ndarray = field(kw_only=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the columns and of the noise."""
        columns = super().fingerprint.encode()
        return hashlib.sha256(columns + self.noise.tobytes()).hexdigest()

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The windows of 1 s of a sound file, one every half second; None for another kind of file.

        They are named by the second at which they begin, where there are several.
        """
        waveform = read_waveform(path, self.rate, LONGEST * self.rate)
        if waveform is None:
            return None
        window = self.columns["x"].shape[1]
        starts = np.arange(0, max(0, len(waveform) - window) + window // 2, window // 2)
        padded = np.pad(waveform, (0, starts[-1] + window - len(waveform)))
        x = np.stack([padded[start : start + window] for start in starts])
        length = np.full(len(x), window, np.int32)  # silence around a word counts, as in training
        names = [f"{path}[{start / self.rate:g} s]" for start in starts]
        return names if len(names) > 1 else [str(path)], {"x": x, "length": length}


@dataclass(frozen=True, eq=False, repr=False)
class KeywordDataset(Dataset):
    """A dataset of spoken keywords, with the noise of its split."""

    source: SpokenWords

    @property
    def noise(self) -> np.ndarray:
        """Recordings (N, T) of int16 of noise of this split, for `jdl.data.mix_noise`."""
        return self.source.noise


def _part(name: str, voices: Sequence[str], rows: int, seed: int) -> KeywordDataset:
    draws = raw_draws(rows, 7, seed, f"spoken_keywords {name}")
    y = (draws[:, 0] % np.uint64(len(LABELS))).astype(np.int32)
    noise = _noise(name, voices, seed)
    x = np.zeros((rows, SAMPLES), np.int16)
    if len(spoken := np.flatnonzero(y != SILENCE)):
        utterances = [
            drawn_utterance(
                (*KEYWORDS, OTHER_WORDS[word % len(OTHER_WORDS)])[label], speech, voices
            )
            for label, (word, *speech) in zip(y[spoken], draws[spoken, 1:6].tolist(), strict=True)
        ]
        x[spoken] = _placed(*speak(utterances, RATE, SAMPLES), draws[spoken, 6])
    silent = np.flatnonzero(y == SILENCE)
    x[silent] = _silences(noise, draws[silent, 1:4])
    length = np.full(rows, SAMPLES, np.int32)
    source = SpokenWords({"x": x, "length": length, "y": y}, LABELS, rate=RATE, noise=noise)
    return KeywordDataset(source, np.arange(rows, dtype=np.int32)).map(to_waveform)


def _placed(x: np.ndarray, length: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The words of these lengths at random places in their rows (N, T)."""
    starts = (draws % (x.shape[1] - length + 1).astype(np.uint64)).astype(np.int64)
    return np.take_along_axis(x, (np.arange(x.shape[1]) - starts[:, None]) % x.shape[1], 1)


def _silences(noise: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Noise (N, T) of a random kind, from a random place on and of a random loudness."""
    which, start, loudness = (
        (column % np.uint64(choices)).astype(np.int64)
        for column, choices in zip(draws.T, (*noise.shape, LOUDNESS[1] - LOUDNESS[0]), strict=True)
    )
    places = (start[:, None] + np.arange(noise.shape[1])) % noise.shape[1]
    clips = np.take_along_axis(noise[which], places, 1).astype(np.int64)
    squares = np.maximum(np.square(clips).sum(1, keepdims=True), 1)
    gains = (LOUDNESS[0] + loudness[:, None]) / np.sqrt(squares / noise.shape[1])
    return np.rint(clips * gains).clip(-(2**15), 2**15 - 1).astype(np.int16)


def _noise(name: str, voices: Sequence[str], seed: int) -> np.ndarray:
    """White noise, pink noise and babble (3 * CLIPS, T) of int16."""
    stream = f"spoken_keywords {name} noise"
    draws = raw_draws(CLIPS * VOICES, 6, seed, stream)
    utterances = [
        drawn_utterance(OTHER_WORDS[word % len(OTHER_WORDS)], speech, voices)
        for word, *speech in draws[:, :5].tolist()
    ]
    x, length = speak(utterances, RATE, SAMPLES)
    starts = (draws[:, 5] % np.uint64(SAMPLES)).astype(np.int64).reshape(CLIPS, VOICES)
    spoken = babble(x.reshape(CLIPS, VOICES, SAMPLES), length.reshape(starts.shape), starts)
    white, pink = (make(CLIPS, SAMPLES, seed, stream) for make in (white_noise, pink_noise))
    return np.concatenate([white, pink, spoken])
