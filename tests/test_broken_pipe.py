"""Output that nobody reads any more: a training goes on without it, other commands just end.

Seen to fail: a training that ends with a BrokenPipeError, a command whose last words are flushed
by the interpreter (code 120, and a traceback), and another broken pipe taken for the output's.
"""

import os
import subprocess
import sys

import pytest
from harness import command, folder_of

SHOWS = "from jdl.train.broken_pipe import show; [show('x') for _ in range(3)]; open('end', 'w')"
OTHER = """
import jdl.cli, sys
def broken(verb, arguments): raise BrokenPipeError("another")
jdl.cli.call_verb = broken
jdl.cli.main()
"""


@pytest.fixture
def run(tmp_path):
    """Runs a command whose standard output nobody reads: (exit code, standard error)."""

    def call(*words, same=False):
        reader, writer = os.pipe()
        os.close(reader)
        error = subprocess.STDOUT if same else subprocess.PIPE
        done = subprocess.run(words, stdout=writer, stderr=error, text=True, cwd=tmp_path)
        os.close(writer)
        return done.returncode, done.stderr or ""

    return call


@pytest.mark.parametrize("same", [False, True])
def test_what_is_shown_goes_nowhere_and_the_program_goes_on(run, tmp_path, same):
    assert run(sys.executable, "-c", SHOWS, same=same) == (0, "")
    assert (tmp_path / "end").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 141), (["runs", "--help"], 141), (["runs"], 1)],  # the table is Rich's
)
def test_a_command_ends_without_a_word(run, words, code):
    assert run("jdl", *words) == (code, "")


def test_an_error_is_still_told(run):
    code, error = run("jdl", "none")
    assert (code, error.startswith("jdl: There is no command")) == (2, True)


def test_another_broken_pipe_is_an_error(tmp_path):
    words = [sys.executable, "-c", OTHER, "runs"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "BrokenPipeError: another" in done.stderr


@pytest.mark.slow
def test_a_training_goes_on(run, tmp_path):
    assert run(*command(tmp_path, "--steps", 3)) == (0, "")
    assert (folder_of(tmp_path) / "summary.json").exists()
