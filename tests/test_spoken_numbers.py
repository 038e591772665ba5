"""Spoken numbers and sounds with transcripts; most of it with a program that only looks like
espeak-ng, which need not be installed.

Seen to fail: a cache that does not know the version, a voice in two splits, draws that depend on
the number of utterances, and sounds that are cut.
"""

import shutil

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

import jdl
from jdl.data import speech_synthesis
from jdl.data.speech_synthesis import TEST, TRAINING, VALIDATION, Utterance, speak
from jdl.data.spoken_numbers import LETTERS, in_words


def test_numbers_in_words():
    said = {0: "zero", 7: "seven", 13: "thirteen", 20: "twenty", 85: "eighty five"}
    said |= {
        100: "one hundred",
        307: "three hundred and seven",
        999: "nine hundred and ninety nine",
    }
    assert {number: in_words(number) for number in said} == said
    assert in_words(307, "") == "three hundred seven"
    every = [in_words(number) for number in range(1_000)]
    assert len(set(every)) == 1_000
    assert max(map(len, every)) == LETTERS
    assert {word for text in every for word in text.split()} == set(jdl.data.NUMBER_WORDS)
    with pytest.raises(jdl.Error, match="from 0 to 999"):
        in_words(1_000)


def test_utterances_are_functions_of_seed_and_number(program):
    def calls():
        return (program / "calls").read_text().count("\n")

    train, valid, test = jdl.data.spoken_numbers(7, 3)
    assert calls() == 13
    fewer, *_ = jdl.data.spoken_numbers(4, 3)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, train.columns[name][:4])
    assert calls() == 13 + 4
    again, *_ = jdl.data.spoken_numbers(7, 3)  # from the cache
    assert again.fingerprint == train.fingerprint
    assert calls() == 13 + 4
    other, *_ = jdl.data.spoken_numbers(4, 3, seed=1)
    assert (other.columns["y"] != fewer.columns["y"]).any()
    assert calls() == 13 + 4 + 10
    (program / "version").write_text("1.52")
    jdl.data.spoken_numbers(7, 3)  # another version may speak otherwise
    assert calls() == 13 + 4 + 10 + 13
    for data, voices in ((train, TRAINING), (valid, VALIDATION), (test, TEST)):
        for row, samples in enumerate(data.columns["x"]):
            arguments = samples[: data.columns["length"][row]].tobytes().decode().split(" ")
            accent, voice = arguments[1].split("+")
            assert accent in speech_synthesis.ACCENTS
            assert voice in voices.split()
            letters = data.columns["y"][row][: data.columns["y_length"][row]]
            assert "".join(data.labels[k] for k in letters) in " ".join(arguments)


def test_no_voice_is_in_two_splits():
    voices = [name for part in (TRAINING, VALIDATION, TEST) for name in part.split()]
    assert len(set(voices)) == len(voices) == 95


def test_batches_have_waveforms_and_padded_letters(program):
    train, *_ = jdl.data.spoken_numbers(60, 1)
    columns, batch = train.columns, train.batches(60)[0]
    assert columns["x"].dtype == np.int16
    np.testing.assert_array_equal(batch["x"], columns["x"] / np.float32(32_768))
    np.testing.assert_array_equal(
        columns["y"] > 0, np.arange(LETTERS) < columns["y_length"][:, None]
    )
    said = {len("".join(train.labels[k] for k in y if k).split()) for y in columns["y"]}
    assert said == {1, 2, 3, 4, 5}
    with pytest.raises(jdl.Error, match="at least 1, not 0 and 1000"):
        jdl.data.spoken_numbers(0)


def test_what_the_program_lacks_is_named(program, monkeypatch):
    utterance = Utterance("seven", "en-gb", "f1", 50, 170)
    with pytest.raises(jdl.Error, match=r"takes 0.03 s, and the rows of this dataset have 0.01 s"):
        speak([utterance], 8_000, 100)
    voices = (program / "voices").read_text()
    (program / "voices").write_text(voices.replace("!v/f1\n", "!v/f9\n"))
    with pytest.raises(jdl.Error, match=r"espeak-ng 1\.51 lacks the voices f1: install"):
        speak([utterance], 8_000, 1_000)
    (program / "voices").write_text(voices)
    script = (program / "espeak-ng").read_text()
    (program / "espeak-ng").write_text(script.replace("*) ", "*) echo no data >&2; exit 3;"))
    with pytest.raises(jdl.Error, match=r"`espeak-ng -v en-gb\+f1 .* seven` failed: no data\."):
        speak([utterance], 8_000, 1_000)
    (program / "espeak-ng").write_text(script.replace("*) ", "*) exit 0;"))
    with pytest.raises(jdl.Error, match="says nothing for"):
        speak([utterance], 8_000, 1_000)
    monkeypatch.setenv("PATH", str(program / "nothing"))
    with pytest.raises(jdl.Error, match=r"not installed.*apt-get install espeak-ng"):
        speak([utterance], 8_000, 1_000)
    assert not list((program.parent / "cache").rglob("*.npy"))


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_the_real_program_says_the_same_again(tmp_path, monkeypatch):
    """Also voices of noise, in whatever order."""
    utterances = [
        Utterance("three hundred and seven", "en-us", voice, 40, 170)
        for voice in ("f2", "whisper", "klatt4", "m3")
    ]
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "one"))
    x, length = speak(utterances, 8_000, 20_480)
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "other"))
    again = speak(utterances[::-1], 8_000, 20_480)
    np.testing.assert_array_equal(x, again[0][::-1])
    np.testing.assert_array_equal(length, again[1][::-1])
    assert (length > 6_000).all()
    assert len({row.tobytes() for row in x}) == 4


def test_a_new_file_is_read_as_the_utterances(program, tmp_path):
    train, *_ = jdl.data.spoken_numbers(1, 1)
    tone = 0.5 * np.sin(np.arange(11_025) / 5)
    soundfile.write(tmp_path / "new.wav", tone, 22_050, subtype="FLOAT")
    names, columns = train.source.read_file(tmp_path / "new.wav")
    assert names == [str(tmp_path / "new.wav")]
    assert columns["length"].tolist() == [4_000]
    expected = resample_poly(tone, 160, 441)
    np.testing.assert_allclose(columns["x"][0, :4_000], expected * 32_768, atol=1.0)
    assert train.source.read_file(tmp_path / "new.png") is None
    soundfile.write(tmp_path / "long.wav", np.zeros(20_481), 8_000)
    with pytest.raises(jdl.Error, match=r"long.wav cannot be read: it takes more than 2.56 s"):
        train.source.read_file(tmp_path / "long.wav")


def test_sounds_with_transcripts(tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    for name, seconds in (("a", 0.4), ("b", 0.5), ("c", 0.51)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(round(8_000 * seconds), 0.25), 8_000)
    table = tmp_path / "said.csv"
    table.write_text('file,text\na.wav,"Go  on"\nb.wav,no\n')
    data = jdl.data.transcribed_sounds(tmp_path, table, 8_000, 0.5)
    assert data.labels == ("", " ", "g", "n", "o")
    assert data.columns["y"].tolist() == [[2, 4, 1, 4, 3], [3, 4, 0, 0, 0]]
    assert data.columns["length"].tolist() == [3_200, 4_000]
    other = tmp_path / "other.csv"
    other.write_text("file,text\na.wav,on\n")
    test = jdl.data.transcribed_sounds(tmp_path, other, 8_000, 0.5, labels=data.labels)
    assert test.labels == data.labels
    assert test.columns["y"].tolist() == [[4, 3]]
    with pytest.raises(jdl.Error, match=r"said.csv, line 2: the transcript has 'g', which is none"):
        jdl.data.transcribed_sounds(tmp_path, table, 8_000, 0.5, labels=("", *" no"))
    for bad in (" gno", (" ", "g"), ("", "go"), ()):
        with pytest.raises(jdl.Error, match='labels are "", for the blank of CTC'):
            jdl.data.transcribed_sounds(tmp_path, table, 8_000, 0.5, labels=bad)
    table.write_text("file,text\na.wav,go\nc.wav,on\n")
    with pytest.raises(jdl.Error, match=r"c.wav .*line 3\): it takes more than 0.5 s: cut it"):
        jdl.data.transcribed_sounds(tmp_path, table, 8_000, 0.5)
    table.write_text("file,text\n")
    with pytest.raises(jdl.Error, match=r"said\.csv has no rows"):
        jdl.data.transcribed_sounds(tmp_path, table, 8_000, 0.5)
