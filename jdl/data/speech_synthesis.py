"""Speech synthesis by the program espeak-ng, of which spoken datasets are made."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from jdl.data.cache import cache_dir, read_cache, write_cache
from jdl.data.decoded_files import cores, progress
from jdl.data.sound_files import resampled
from jdl.types import Error

PROGRAM = "espeak-ng"
INSTALL = "Install it: apt-get install espeak-ng, or brew install espeak-ng."
PART = 500  # utterances that are kept together in the cache
PITCH, SPEED = (25, 75), (165, 215)  # what `drawn_utterance` draws from
HEADER = 44  # bytes of a WAV file before its samples, as espeak-ng writes it
ACCENTS = (
    "en-029",  # Caribbean
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-gbclan",  # Lancaster
    "en-gb-x-gbcwmd",  # West Midlands
    "en-gb-x-rp",  # received pronunciation
    "en-us",
    "en-us-nyc",  # New York City
)
# Voice variants. Those with relatives that sound alike, such as edward2, are all in training.
TRAINING = (
    "Alex Alicia Andy Demonic Diogo Gene Gene2 Henrique Hugo Lee Michael Nguyen RicishayMax "
    "RicishayMax2 RicishayMax3 UniRobot anika anikaRobot announcer aunty belinda benjamin "
    "caleb croak ed edward edward2 f2 f3 f4 fast grandpa iven iven2 iven3 iven4 john kaukovalta "
    "klatt2 klatt3 klatt4 klatt5 linda m2 m4 m6 m7 m8 max miguel pablo paul pedro rob robosoft "
    "robosoft2 robosoft3 robosoft4 robosoft5 robosoft6 robosoft7 robosoft8 sandro steph steph2 "
    "steph3 travis victor whisper whisperf zac"
)
VALIDATION = "Annie Mario adam david grandma m3 michel robert"
TEST = (
    "Andrea Denis Jacky Mike Tweaky antonio boris f1 f5 gustave m1 m5 marcelo norbert quincy shelby"
)


@dataclass(frozen=True)
class Utterance:
    """A text and how it is spoken."""

    text: str
    accent: str
    voice: str  # a voice variant of espeak-ng
    pitch: int  # from 0 to 99
    speed: int  # words a minute


def drawn_utterance(text: str, draws: Sequence[int], voices: Sequence[str]) -> Utterance:
    """The text in the accent, the voice, the pitch and the speed of four random integers."""
    accent, voice, pitch, speed = draws
    return Utterance(
        text,
        ACCENTS[accent % len(ACCENTS)],
        voices[voice % len(voices)],
        PITCH[0] + pitch % (PITCH[1] - PITCH[0] + 1),
        SPEED[0] + speed % (SPEED[1] - SPEED[0] + 1),
    )


def speak(
    utterances: Sequence[Utterance], rate: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """The utterances as int16 waveforms (N, samples), padded with silence, and their lengths (N,).

    They are a function of the utterances and of espeak-ng's version alone (and, in the last bit,
    of SciPy's resampling), and are kept in jdl's cache under both, part by part. Raises `Error`
    where the program or a voice is missing, or an utterance is longer.
    """
    version = _version()
    _check_voices({utterance.voice for utterance in utterances}, version)
    starts = range(0, len(utterances), PART)
    parts = [
        _part(utterances[n : n + PART], rate, samples, version)
        for n in progress(starts, len(starts), "speaking")
    ]
    x, length = (np.concatenate([part[name] for part in parts]) for name in ("x", "length"))
    return x, length


def _part(
    utterances: Sequence[Utterance], rate: int, samples: int, version: str
) -> dict[str, np.ndarray]:
    """The columns x and length, from the cache or spoken now."""
    key = hashlib.sha256(f"espeak-ng {version} {rate} {samples}\n".encode())
    for utterance in utterances:
        key.update(f"{astuple(utterance)}\n".encode())
    folder = cache_dir() / "spoken" / key.hexdigest()
    columns = read_cache(folder)
    if columns is None:
        columns = _speak(utterances, rate, samples)
        write_cache(folder, columns)
    return columns


def _speak(utterances: Sequence[Utterance], rate: int, samples: int) -> dict[str, np.ndarray]:
    """The columns x and length, by a process for each utterance, as many at a time as cores."""
    x = np.zeros((len(utterances), samples), np.int16)
    length = np.zeros(len(utterances), np.int32)

    def fill(row: int) -> None:
        spoken = _waveform(utterances[row], rate)
        if len(spoken) > samples:
            raise Error(
                f"{utterances[row]} takes {len(spoken) / rate:.2f} s, and the rows of this dataset "
                f"have {samples / rate:.2f} s: install espeak-ng 1.51, whose voices are as fast."
            )
        x[row, : len(spoken)], length[row] = spoken, len(spoken)

    with ThreadPoolExecutor(cores()) as threads:
        list(threads.map(fill, range(len(utterances))))
    return {"x": x, "length": length}


def _waveform(utterance: Utterance, rate: int) -> np.ndarray:
    """The samples (n,) of int16 of one utterance."""
    wav = _run(
        "-v",
        f"{utterance.accent}+{utterance.voice}",
        "-p",
        str(utterance.pitch),
        "-s",
        str(utterance.speed),
        "-z",
        "--stdout",
        utterance.text,
    )
    if len(wav) <= HEADER:
        raise Error(f"espeak-ng says nothing for {utterance}: is its data installed? {INSTALL}")
    spoken = np.frombuffer(wav[HEADER:], "<i2").astype(np.float64)
    at_rate = resampled(spoken, int.from_bytes(wav[24:28], "little"), rate)
    return np.rint(at_rate).clip(-(2**15), 2**15 - 1).astype(np.int16)


def _version() -> str:
    output = _run("--version").decode("utf-8", "replace")
    found = re.search(r"\d+(\.\d+)+\S*", output)
    if not found:
        raise Error(f"`{PROGRAM} --version` tells no version, but {output!r}. {INSTALL}")
    return found[0]


def _check_voices(voices: Collection[str], version: str) -> None:
    """Raises `Error` where a voice is missing: espeak-ng would speak in its default one."""
    lines = _run("--voices=variant").decode("utf-8", "replace").splitlines()
    known = {Path(line.split("!v/")[1].strip()).name for line in lines if "!v/" in line}
    if missing := sorted(set(voices) - known):
        raise Error(
            f"espeak-ng {version} lacks the voices {', '.join(missing)}: install version 1.51 or "
            "later, with all of its data (in Debian espeak-ng and espeak-ng-data)."
        )


def _run(*arguments: str) -> bytes:
    try:
        done = subprocess.run((PROGRAM, *arguments), capture_output=True)
    except FileNotFoundError as error:
        raise Error(
            f"This dataset is spoken by the program espeak-ng, which is not installed. {INSTALL}"
        ) from error
    if done.returncode:
        raise Error(
            f"`{PROGRAM} {' '.join(arguments)}` failed: "
            f"{done.stderr.decode('utf-8', 'replace').strip() or f'status {done.returncode}'}."
        )
    return done.stdout
