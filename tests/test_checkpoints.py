"""Checkpoints: what a kill, damage or a failure during a save leaves, and what is said of it."""

import threading
import time

import jax
import numpy as np
import pytest
from harness import Killed, digest, folder_of, lines, stopped_at, train

import jdl
from jdl.store import manifest
from jdl.store.checkpoints import Checkpoints
from jdl.store.folder import DiskError

STATE = jdl.State(*(np.zeros(3) for _ in range(6)))


def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_in_the_same_bits(tmp_path, capsys):
    whole = train(tmp_path / "whole", save_every=5)
    stopped_at(43, tmp_path / "hurt", save_every=5)
    folder = next((tmp_path / "hurt").glob("*/*/seed0"))
    newest = max(
        int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()
    )
    (folder / "checkpoints" / str(newest) / "record" / "metadata").write_text("{}")
    capsys.readouterr()
    resumed = train(tmp_path / "hurt", save_every=5, quiet=False)
    assert (
        f"The checkpoint of step {newest} is damaged: record/metadata has changed"
        in capsys.readouterr().out
    )
    assert (folder / "damaged" / f"{newest}.0").is_dir()
    assert resumed.steps == 60 - newest + 5
    assert digest(resumed) == digest(whole)
    assert lines(resumed) == lines(whole)


@pytest.mark.parametrize(("killed_at", "steps"), [(5, 10), (10, 5)])
def test_a_kill_during_a_save_loses_no_earlier_checkpoint(
    tmp_path, monkeypatch, capsys, killed_at, steps
):
    """Seen to fail with the old one deleted before the manifest, and without the note."""
    write = manifest.write_manifest

    def write_or_die(checkpoint):
        if int(checkpoint.name) == killed_at:
            raise Killed
        write(checkpoint)

    fields = {"steps": 10, "eval_every": 0, "save_every": 5, "keep": 1}
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_manifest", write_or_die)
        with pytest.raises(Killed):
            train(tmp_path, **fields)
    resumed = train(tmp_path, **fields, quiet=False)
    assert resumed.steps == steps
    assert ("so training starts again from step 0" in capsys.readouterr().out) == (steps == 10)
    kept = [path.name for path in (resumed.folder / "checkpoints").iterdir()]
    assert [name for name in kept if name.isdigit()] == ["10"]


def test_a_save_that_fails_ends_the_run_before_the_next_save(tmp_path, monkeypatch):
    """Seen to fail with the error raised at the next save: the run went on to step 40."""
    failed = threading.Event()

    def fail(checkpoint):
        failed.set()
        raise OSError("no room")

    def wait_for_it(step, state, metrics):
        assert failed.wait(60)
        time.sleep(0.2)  # until its thread has ended

    monkeypatch.setattr(manifest, "write_manifest", fail)
    with pytest.raises(jdl.Error, match=r"could not be written.*no room.*Earlier ones are intact"):
        train(tmp_path, hooks=[(21, wait_for_it)], eval_every=0)
    assert 20 <= len(lines(folder_of(tmp_path))) < 40


FULL = "Error writing local file: No space left on device [os_error_code='28']"  # of TensorStore


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            OSError(28, "No space left"),
            DiskError,
            r"No space left\. .* intact: free some disk space",
        ),
        (ValueError(FULL), DiskError, r"No space left .* intact: free some disk space"),
        (ValueError("denied [os_error_code='13']"), DiskError, r"denied .* intact: run the same"),
        (ValueError("two shapes"), jdl.Error, r"ValueError: two shapes\. .* intact: run the same"),
    ],
)
def test_a_save_that_fails_says_why(tmp_path, error, kind, message):
    """As Orbax fails: only a full disk asks for space, and only a disk's error is a `DiskError`.

    Seen to fail with each `ValueError` taken for a full disk, and for none.
    """

    def fail(state):
        raise error

    checkpoints = Checkpoints(tmp_path, on_saved=fail)
    checkpoints.save(1, STATE, {})
    with pytest.raises(jdl.Error, match=message) as raised:
        checkpoints.close()
    assert raised.type is kind


@pytest.mark.parametrize(("best", "expected"), [("min loss", [1, 3, 4]), ("max loss", [5, 2, 4])])
def test_the_best_checkpoint_is_a_complete_one(tmp_path, best, expected):
    """A kill between Orbax's save and the manifest leaves one that is incomplete.

    Seen to fail with Orbax's own answer, and with the earliest of equals.
    """
    checkpoints = Checkpoints(tmp_path, best, keep=9)
    for step, loss in enumerate((1.0, 9.0, 2.0, 3.0, 9.0), 1):
        checkpoints.save(step, STATE, {}, {"loss": loss})
    checkpoints.save(6, STATE, {})  # not evaluated
    checkpoints.close()
    found = []
    for _ in expected:
        reopened = Checkpoints(tmp_path, best, read_only=True)
        found.append(reopened.best())
        reopened.close()
        (tmp_path / str(found[-1]) / manifest.NAME).unlink(missing_ok=True)
    assert found == expected


def test_processes_that_give_up_waiting_for_a_save_say_so(tmp_path):
    """Seen to fail with JAX's own error, which is no `jdl.Error`."""

    def give_up(state):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    checkpoints = Checkpoints(tmp_path, on_saved=give_up)
    checkpoints.save(1, STATE, {})
    with pytest.raises(jdl.Error, match=r"could not save .* together .* DEADLINE_EXCEEDED"):
        checkpoints.close()


def test_a_checkpoint_that_was_not_written_to_its_end_is_none(tmp_path):
    whole = train(tmp_path, steps=10, save_every=5)
    (whole.folder / "checkpoints" / "10" / "manifest.json").unlink()
    resumed = train(tmp_path, steps=10, save_every=5)
    assert 0 < resumed.steps < 10
    assert digest(resumed) == digest(whole)
    for path in (whole.folder / "checkpoints").glob("*/_CHECKPOINT_METADATA"):
        path.unlink()
    with pytest.raises(
        jdl.Error, match=r"_CHECKPOINT_METADATA is missing.*No checkpoint is intact: use --fresh"
    ):
        train(tmp_path, steps=10)
