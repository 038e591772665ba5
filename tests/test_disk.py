"""A disk that is full or read-only ends in a message, with all that was saved before whole."""

import subprocess

import jax
import pytest
from harness import command, digest, lines, train

import jdl


@pytest.fixture
def small(tmp_path):
    """A disk of two megabytes, which a run that keeps all of its checkpoints fills."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def error_of(*words):
    """The error message of a training that must fail."""
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_a_full_disk_stops_the_run_whose_checkpoints_are_whole(small, tmp_path):
    whole = train(tmp_path / "whole", save_every=5)
    assert "Earlier ones are intact: free some disk space" in error_of(
        small, "--save-every", "5", "--keep", "20"
    )
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    resumed = train(small, save_every=5)
    assert 0 < resumed.steps < 60
    assert (digest(resumed), lines(resumed)) == (digest(whole), lines(whole))


@pytest.mark.parametrize(
    ("room", "message"), [(600_000, "MiB are free under"), (12_000, "No space left on device")]
)
def test_a_disk_without_room_is_reported(small, room, message):
    (small / "filler").write_bytes(bytes(2**21 - room))
    assert message in error_of(small)


def test_a_read_only_folder_is_refused_before_the_step_is_compiled(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with jax.log_compiles():
        with pytest.raises(jdl.Error, match=r"cannot be written: .* Choose another with --root"):
            train(tmp_path / "file")
        assert "Compiling jit(step)" not in caplog.text
        train(tmp_path / "folder", steps=1)
        assert "Compiling jit(step)" in caplog.text
