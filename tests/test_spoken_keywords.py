"""Spoken keywords, by a program that only looks like espeak-ng (`fake_espeak`).

Seen to fail: draws that depend on the number of rows; keywords among the unknown words; silences of
another split's noise; a fingerprint that does not know the noise.
"""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import soundfile
from fake_espeak import write_header

import jdl
from jdl.data.speech_synthesis import TEST, TRAINING, VALIDATION
from jdl.data.spoken_keywords import KEYWORDS, OTHER_WORDS, SILENCE, UNKNOWN


@pytest.fixture
def made(program, monkeypatch):
    """(train, valid, test), of few recordings of noise."""
    monkeypatch.setattr(import_module("jdl.data.spoken_keywords"), "CLIPS", 2)
    write_header(program, 16_000)
    return jdl.data.spoken_keywords(70, 40)


def said(samples):
    """The arguments of the program: the voice and the word that a row says."""
    arguments = samples.tobytes().replace(b"\0", b"").decode().split()
    return arguments[1].split("+")[1], arguments[-1]


def test_rows_are_functions_of_seed_and_number(made):
    train, valid, test = made
    fewer, *_ = jdl.data.spoken_keywords(9, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, train.columns[name][:9])
    np.testing.assert_array_equal(fewer.noise, train.noise)
    again, *_ = jdl.data.spoken_keywords(70, 1)
    assert again.fingerprint == train.fingerprint
    other, *_ = jdl.data.spoken_keywords(9, 1, seed=1)
    assert (other.columns["y"] != fewer.columns["y"]).any()
    assert len({data.noise.tobytes() for data in (train, valid, test, other)}) == 4
    louder = replace(train.source, noise=train.noise + 1)
    assert louder.fingerprint != train.source.fingerprint
    with pytest.raises(jdl.Error, match="at least 1, not 0 and 5"):
        jdl.data.spoken_keywords(0, 5)


def test_each_split_has_voices_of_its_own(made):
    for data, voices in zip(made, (TRAINING, VALIDATION, TEST), strict=True):
        assert set(data.columns["y"]) == set(range(len(data.labels)))
        starts = set()
        for x, y in zip(data.columns["x"], data.columns["y"], strict=True):
            if y == SILENCE:
                continue
            voice, word = said(x)
            assert voice in voices.split()
            assert word == KEYWORDS[y] if y < UNKNOWN else word in OTHER_WORDS
            starts.add(np.flatnonzero(x)[0])
        assert max(starts) > 12_000 > 4_000 > min(starts)
    assert len({*KEYWORDS, *OTHER_WORDS}) == 35


def test_silence_is_noise_of_the_split(made):
    for data in made:
        assert data.noise.shape == (6, 16_000)
        silent = data.columns["x"][data.columns["y"] == SILENCE].astype(float)
        loudness = np.sqrt(np.square(silent).mean(1))
        assert (loudness > 90).all()
        assert (loudness < 4_010).all()
        spectra = abs(np.fft.rfft(data.noise.astype(float)))  # which do not change when turned
        for row in abs(np.fft.rfft(silent)):
            likeness = [np.corrcoef(row, spectrum)[0, 1] for spectrum in spectra]
            assert max(likeness) > 0.95


@pytest.mark.slow
def test_batches_and_windows_of_new_files(made, tmp_path):
    train, *_ = made
    batch = train.batches(70)[0]
    np.testing.assert_array_equal(batch["x"], train.columns["x"] / np.float32(32_768))
    assert set(np.asarray(batch["length"])) == {16_000}
    path = tmp_path / "new.wav"
    for samples, starts in (
        (9_000, [0]),
        (16_000, [0]),
        (16_001, [0, 8]),
        (33_000, [0, 8, 16, 24]),
    ):
        sound = np.arange(1, samples + 1).astype(np.int16)
        soundfile.write(path, sound, 16_000)
        names, columns = train.source.read_file(path)
        assert len(names) == len(starts)
        assert names[0] == (str(path) if len(names) == 1 else f"{path}[0 s]")
        assert names[-1] == f"{path}[1.5 s]" or samples < 33_000
        for start, x, length in zip(starts, columns["x"], columns["length"], strict=True):
            part = sound[1_000 * start :][:16_000]
            np.testing.assert_array_equal(x, np.pad(part, (0, 16_000 - len(part))))
            assert length == 16_000  # as in training
    assert train.source.read_file(tmp_path / "new.png") is None
    soundfile.write(path, np.zeros(9_600_001, np.int16), 16_000)
    with pytest.raises(jdl.Error, match=r"new.wav cannot be read: it takes more than 600 s"):
        train.source.read_file(path)
