"""A program that only looks like espeak-ng, which need not be installed."""

import wave

import pytest

from jdl.data.speech_synthesis import TEST, TRAINING, VALIDATION

FAKE = """#!/bin/sh
case "$1" in
--version) echo "eSpeak NG text-to-speech: $(cat {folder}/version)  Data at: /data" ;;
--voices=variant) cat {folder}/voices ;;
*) echo "$*" >> {folder}/calls; cat {folder}/header; printf '%-480s' "$*" ;;
esac
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The folder of a program that says an utterance's arguments, as the bytes of samples."""
    folder = tmp_path / "bin"
    folder.mkdir()
    names = " ".join((TRAINING, VALIDATION, TEST)).split()
    lines = [f" 5  variant         --/F      {name}               !v/{name}" for name in names]
    (folder / "voices").write_text("\n".join(["Pty Language Age/Gender VoiceName File", *lines]))
    (folder / "version").write_text("1.51")
    (folder / "calls").write_text("")
    write_header(folder, 8_000)
    script = folder / "espeak-ng"
    script.write_text(FAKE.format(folder=folder))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    return folder


def write_header(folder, rate):
    """Lets the program speak at this rate: a dataset of the same rate then has its very bytes."""
    with wave.open(str(folder / "header"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
