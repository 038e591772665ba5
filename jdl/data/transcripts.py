"""Sounds with their transcripts, the texts that are spoken: for speech recognition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jdl.data.bad_rows import OnBad
from jdl.data.dataset import Dataset
from jdl.data.decoded_files import decoded
from jdl.data.folders import LabelledFiles, class_codes, shown, table_rows
from jdl.data.sound_files import SoundDecoder, decoder_of
from jdl.types import Error


def transcribed_sounds(
    folder: str | Path,
    table: str | Path,
    rate: int,
    seconds: float,
    *,
    file: str = "file",
    text: str = "text",
    labels: Sequence[str] | None = None,
    on_bad: OnBad = "raise",
    stream: bool = False,
) -> Dataset:
    """Sounds and a CSV file of what is said: `transcribed_sounds("calls", "calls.csv", 8_000, 5)`.

    For `jdl.objectives.ctc`. The CSV file's column `file` has the paths in the folder, and `text`
    the transcripts. Columns: x and `length` as of `audio_folder`, and y, the characters of the
    transcripts as indices of `labels`, padded with 0, which is CTC's blank. Transcripts are in
    lower case, with one space between words. `labels` are "" and the characters, by default those
    that occur, sorted: give test data of another file `labels=train.labels`, so that a character
    has the same index in both. Another one in a transcript raises `Error` with file and line. A
    sound of more than `seconds` is refused, as its transcript would be of more than is heard.
    `on_bad`, the cache and `stream` are as in `audio_folder`.
    """
    decoder = decoder_of(SpeechDecoder, rate, seconds)
    root, path = Path(folder), Path(table)
    rows = list(table_rows(path, file, text))
    if not rows:
        raise Error(f"{shown(path)} has no rows.")
    texts = [" ".join(said.lower().split()) for _, (_, said) in rows]
    known = _checked(labels) if labels is not None else ("", *sorted(set("".join(texts))))
    for (line, _), said in zip(rows, texts, strict=True):
        if unknown := set(said) - set(known):
            raise Error(
                f"{shown(path)}, line {line}: the transcript has {min(unknown)!r}, which is none "
                f"of the labels {''.join(known)!r}: correct it, or add it to the labels of the "
                "training data."
            )
    paths = tuple(root / name for _, (name, _) in rows)
    places = tuple(
        f"{shown(sound)} ({shown(path)}, line {line})"
        for sound, (line, _) in zip(paths, rows, strict=True)
    )
    y, _ = encode(texts, "".join(known))
    return decoded(LabelledFiles(root, paths, places, y, known), decoder, on_bad, stream)


def _checked(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, which must be "" for CTC's blank, and single characters."""
    if isinstance(labels, str) or list(map(len, labels)) != [0, *[1] * (len(labels) - 1)]:
        raise Error(
            f'labels are "", for the blank of CTC, and then characters, such as train.labels or '
            f'("", *"abc"), but not {labels!r:.60}.'
        )
    return tuple(class_codes(labels))


@dataclass(frozen=True)
class SpeechDecoder(SoundDecoder):
    """Decodes sound files of which nothing may be cut, because all that is said is transcribed."""

    def cut(self, waveform: np.ndarray) -> np.ndarray:
        """The waveform, which may not have more samples than a row."""
        if len(waveform) > self.samples:
            raise ValueError(
                f"it takes more than {self.samples / self.rate:g} s: cut it between words, or "
                "give more seconds"
            )
        return waveform


def encode(
    texts: Sequence[str], alphabet: str, width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Texts as indices (N, width) of ("", *alphabet), padded with 0, and their lengths (N,).

    By default the width is that of the longest text.
    """
    codes = {letter: n for n, letter in enumerate(alphabet, 1)}
    lengths = np.asarray([len(text) for text in texts], np.int32)
    y = np.zeros((len(texts), width or lengths.max()), np.int32)
    for row, text in enumerate(texts):
        y[row, : len(text)] = [codes[letter] for letter in text]
    return y, lengths
