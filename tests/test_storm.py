"""Slow proofs: real runs killed, and checkpoints damaged; `scripts/storm` does more of both."""

import subprocess
from pathlib import Path

import pytest
from harness import digest, finish, folder_of, kill_at, lines, spawn

CNN = Path(__file__).parents[1] / "experiments" / "digits_cnn.py"


@pytest.mark.nightly
def test_digits_cnn_killed_at_three_moments_is_never_stopped(tmp_path):
    flags = ("--steps", 200)
    finish(spawn(tmp_path / "whole", *flags, script=CNN))
    for step in (60, 111, 170):
        assert kill_at(tmp_path / "killed", step, *flags, script=CNN), (
            "it ended before its kill: nothing was shown"
        )
    finish(spawn(tmp_path / "killed", *flags, script=CNN))
    first, second = folder_of(tmp_path / "whole"), folder_of(tmp_path / "killed")
    assert lines(first) == lines(second)
    assert digest(first) == digest(second)


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "count"), [("kill", 3), ("damage", 10)])
def test_a_storm_changes_no_bit(kind, count):
    done = subprocess.run(
        ["scripts/storm", kind, "-n", str(count)],
        cwd=CNN.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} times, seed 0: 0 wrong" in done.stdout
