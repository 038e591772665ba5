"""Sound files as examples: a folder for each class, or a CSV file with their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jdl.data.bad_rows import OnBad
from jdl.data.dataset import Dataset
from jdl.data.decoded_files import decoded
from jdl.data.folders import class_folders, labelled_by_table
from jdl.types import Bounds, Error

READ = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
OTHER = (".m4a", ".aac", ".wma", ".amr", ".ape", ".webm")
RATES = range(1_000, 1_000_000)  # samples a second; a damaged header may claim any
CHANNELS = 64  # the most that a file may claim
CHUNKS = 1_000  # of a WAV file, among which that of its samples is looked for

D = TypeVar("D", bound="SoundDecoder")


def audio_folder(
    path: str | Path,
    rate: int,
    seconds: float,
    *,
    labels: Sequence[str] | None = None,
    on_bad: OnBad = "raise",
    stream: bool = False,
) -> Dataset:
    """Sounds in a folder for each class: `audio_folder("words", rate=16_000, seconds=1.0)`.

    Columns: the waveform x (T,) from -1 to 1, with T = rate * seconds samples; `length`, how many
    of them the file has; and y, the class. Longer files are cut, shorter ones padded with silence.
    Channels are averaged. Files of another rate are resampled by a polyphase filter
    (`scipy.signal.resample_poly`). WAV, FLAC, OGG, MP3 and AIFF are read, by the library soundfile.
    `jdl.layers.LogMel` makes spectrograms of them within the model. Classes, `labels`, `on_bad`,
    the cache and `stream` are as in `image_folder`.
    """
    decoder = decoder_of(SoundDecoder, rate, seconds)
    files = class_folders(Path(path), decoder.suffixes, labels)
    return decoded(files, decoder, on_bad, stream)


def sounds(
    folder: str | Path,
    table: str | Path,
    rate: int,
    seconds: float,
    *,
    file: str = "file",
    label: str = "label",
    target: str | None = None,
    labels: Sequence[str] | None = None,
    on_bad: OnBad = "raise",
    stream: bool = False,
) -> Dataset:
    """Sounds and a CSV file of their labels: `sounds("calls", "calls.csv", 16_000, 1.0)`.

    The table is as in `images`, the rest as in `audio_folder`.
    """
    decoder = decoder_of(SoundDecoder, rate, seconds)
    files = labelled_by_table(Path(folder), Path(table), file, label, target, labels)
    return decoded(files, decoder, on_bad, stream)


@dataclass(frozen=True)
class SoundDecoder:
    """Decodes a sound file by soundfile to a waveform, as `audio_folder` tells."""

    rate: int
    samples: int

    def __post_init__(self) -> None:
        if self.rate not in RATES:
            raise Error(f"rate is samples a second, such as 16_000, not {self.rate}.")
        if self.samples < 1:
            raise Error("The sounds would have no sample: give more seconds.")
        _soundfile()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of sounds; files of those that cannot be read are not just ignored."""
        return READ + OTHER

    @property
    def version(self) -> str:
        """The versions of what decodes and what resamples."""
        import scipy

        return f"{_soundfile().__libsndfile_version__} scipy {scipy.__version__}"

    @property
    def like(self) -> dict[str, np.ndarray]:
        """Silence."""
        return {"x": np.zeros(self.samples, np.float32), "length": np.zeros((), np.int32)}

    @property
    def bounds(self) -> Bounds:
        """Files of floating-point numbers may have any sample."""
        return {"length": (0, self.samples)}

    def decode(self, file: BufferedReader) -> dict[str, np.ndarray]:
        """The waveform of a sound, {"x": (T,), "length": ()}."""
        samples, rate = self._read(file)
        if not np.isfinite(samples).all():
            raise ValueError("it has a NaN or infinite sample")
        waveform = self.cut(resampled(samples.mean(1), rate, self.rate))
        x = np.zeros(self.samples, np.float32)
        x[: len(waveform)] = waveform
        return {"x": x, "length": np.asarray(len(waveform), np.int32)}

    def cut(self, waveform: np.ndarray) -> np.ndarray:
        """The samples of a waveform (n,) that are kept."""
        return waveform[: self.samples]

    def _read(self, file: BufferedReader) -> tuple[np.ndarray, int]:
        """The samples (n, channels) that are needed, and their rate."""
        if (missing := _missing_bytes(file)) > 0:
            raise ValueError(f"it is truncated: its header claims {missing:,} bytes more")
        with _soundfile().SoundFile(file) as sound:
            if sound.samplerate not in RATES or not 1 <= sound.channels <= CHANNELS:
                claim = f"{sound.channels} channels of {sound.samplerate:,} samples a second"
                raise ValueError(f"its header claims {claim}")
            # The filter reaches over 10 samples of the lower rate beyond the last one that is kept.
            reach = (self.samples + 1) / self.rate + 12 / min(self.rate, sound.samplerate)
            count = min(math.ceil(reach * sound.samplerate), sound.frames)
            samples = sound.read(count, dtype="float32", always_2d=True)
            estimate = sound.format == "MP3"  # which need not tell its length
        if len(samples) < count and not estimate:
            raise ValueError(f"it is truncated: {len(samples):,} of {count:,} samples can be read")
        return samples, sound.samplerate


def decoder_of(kind: type[D], rate: int, seconds: float) -> D:
    """The decoder of plain integers, which it has where these are NumPy's."""
    try:
        whole = index(rate)
    except TypeError as error:
        raise Error(f"rate is samples a second, an integer as 16_000, not {rate!r}.") from error
    if not 0 < seconds < math.inf:
        raise Error(f"seconds must be above 0 and finite, not {seconds!r}.")
    return kind(whole, round(whole * float(seconds)))


def resampled(samples: np.ndarray, rate: int, new: int) -> np.ndarray:
    """Samples (n,) at another rate, by a polyphase filter (`scipy.signal.resample_poly`)."""
    if rate == new:
        return samples
    from scipy.signal import resample_poly  # slow to import

    common = math.gcd(rate, new)
    return resample_poly(samples, new // common, rate // common)


def _missing_bytes(file: BufferedReader) -> int:
    """How many bytes more than there are the header of a WAV file claims for its samples.

    libsndfile takes what there is, and says nothing.
    """
    head = file.read(12)
    size = file.seek(0, 2)
    position, missing = 12, 0
    for _ in range(CHUNKS if head[:4] == b"RIFF" and head[8:] == b"WAVE" else 0):
        if position + 8 > size:
            break
        file.seek(position)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if name == b"data":
            open_end = length >= 0xFFFF_FF00  # of a stream whose length was not known
            missing = 0 if open_end else position + 8 + length - size
            break
        position += 8 + length + length % 2
    file.seek(0)
    return missing


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without its C library
        raise Error("Sounds need the library soundfile: pip install 'jdl[audio]'.") from error
    return soundfile
