"""Texts that a trained run says, as WAV files (text to speech)."""

from __future__ import annotations

import warnings
import wave
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data import arrays
from jdl.data.loader import DatasetLoader
from jdl.data.padding import padded
from jdl.data.text_files import read_lines
from jdl.inspect.restore import TrainedRun
from jdl.store.folder import write_atomically
from jdl.types import Error


def spoken_rows(
    trained: TrainedRun,
    data: DatasetLoader[Any],
    inputs: Sequence[Path],
    batch_size: int,
    folder: Path | None,
) -> list[dict[str, Any]]:
    """Says each line of text files: a row with `input`, where it is, its `text`, and `seconds`.

    With a `folder`, line 3 of words.txt is written there as words-3.wav, 16 bits, which the row
    names as `sound`. Raises `Error`, before anything is written, for other files, for characters
    that are none of the run's labels, and for lines longer than those of its data. Warns of lines
    that are said to the end of `max_frames`, where speech is cut.
    """
    labels = trained.run.labels or data.dataset.labels
    stems, places, texts = _read(inputs)
    most = data.spec["y"].shape[1]
    encoded = [
        _encode(text, place, labels, most) for text, place in zip(texts, places, strict=True)
    ]
    y, y_length = padded(encoded, most, fill=0)
    batches = arrays((), y=y, y_length=y_length).batches(min(batch_size, len(y)))
    said = trained.predict_all(batches)
    rows = []
    for n, (place, stem) in enumerate(zip(places, stems, strict=True)):
        rate, length = int(said["rate"][n]), int(said["length"][n])
        if length >= said["waveform"].shape[1]:
            warnings.warn(
                f"{place}: what is said may be cut at {length / rate:g} s, the longest that the "
                "run can say: write it in several lines.",
                stacklevel=2,
            )
        row = {"input": place, "text": texts[n], "seconds": round(length / rate, 3)}
        if folder is not None:
            row["sound"] = str(folder / f"{stem}.wav")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{stem}.wav", _wav(said["waveform"][n, :length], rate))
        rows.append(row)
    return rows


def _read(inputs: Sequence[Path]) -> tuple[list[str], list[str], list[str]]:
    """The names of the sounds, where the lines are, and the lines in lower case."""
    stems, places, texts = list[str](), list[str](), list[str]()
    for path in inputs:
        if path.suffix != ".txt":
            raise Error(
                f"{path} is no .txt file: text to speech says the lines of text files, and writes "
                "a WAV file for each."
            )
        of_file, lines = read_lines(path)
        places += of_file
        texts += [" ".join(line.lower().split()) for line in lines]
        stems += [f"{path.stem}-{place.rpartition(':')[2]}" for place in of_file]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise Error(
            f"Two files would both have the sound {twice}.wav: say them in two calls, each with an "
            "--out folder of its own."
        )
    return stems, places, texts


def _encode(text: str, place: str, labels: Sequence[str], most: int) -> list[int]:
    """A text as indices of the labels."""
    codes = {label: n for n, label in enumerate(labels)}
    if unknown := set(text) - codes.keys():
        raise Error(
            f"{place} has {min(unknown)!r}, which is none of the labels {''.join(labels)!r} that "
            "the run was trained to say: spell it by these."
        )
    if len(text) > most:
        raise Error(
            f"{place} has {len(text)} characters, and the run was trained on up to {most}: write "
            "it in several lines."
        )
    return [codes[letter] for letter in text]


def _wav(waveform: np.ndarray, rate: int) -> bytes:
    """A WAV file of 16 bits; samples beyond 1 are clipped."""
    file = BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        sound.writeframes(np.rint(waveform.clip(-1, 1) * (2**15 - 1)).astype("<i2").tobytes())
    return file.getvalue()
