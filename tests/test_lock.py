"""One writer at a time: on this host, on others that share the disk, and after a kill."""

import fcntl
import os
import socket
import threading
import time

import pytest

import jdl
from jdl.store import lock
from jdl.store.lock import hold_lock, is_locked

HERE = f"process 7 on {socket.gethostname()}"


def left(folder, holder, seconds_ago):
    """A lock as a holder left it that was last there so long ago."""
    path = folder / "lock"
    path.write_text(f"{holder}\n")
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path):
    with hold_lock(tmp_path) as notes:
        assert notes == []
        assert is_locked(tmp_path)
        with (
            pytest.raises(jdl.Error, match=f"trained already, by process {os.getpid()} on "),
            hold_lock(tmp_path),
        ):
            pass
    assert not is_locked(tmp_path)
    with hold_lock(tmp_path) as notes:
        assert notes == []


def test_a_reader_who_looks_at_the_lock_hinders_no_writer(tmp_path):
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, fcntl.flock, (reader, fcntl.LOCK_UN))
        timer.start()
        with hold_lock(tmp_path) as notes:
            assert notes == []
        timer.join()


def test_a_lock_that_a_killed_process_left_is_recognised(tmp_path):
    left(tmp_path, HERE, 0)
    assert not is_locked(tmp_path)
    with hold_lock(tmp_path) as notes:
        assert notes == [f"The last training of this run, by {HERE}, was killed"]


def test_another_host_holds_as_long_as_it_touches_its_lock(tmp_path):
    left(tmp_path, "process 7 on elsewhere", 20)
    assert is_locked(tmp_path)
    with (
        pytest.raises(
            jdl.Error, match=r"by process 7 on elsewhere, whose last heartbeat was 2\d s ago"
        ),
        hold_lock(tmp_path),
    ):
        pass
    assert (tmp_path / "lock").read_text() == "process 7 on elsewhere\n"
    left(tmp_path, "process 7 on elsewhere", lock.DEAD_SECONDS + 5)
    assert not is_locked(tmp_path)
    with hold_lock(tmp_path) as notes:
        assert "process 7 on elsewhere" in notes[0]


def test_a_refused_writer_does_not_touch_the_lock(tmp_path):
    left(tmp_path, "process 7 on elsewhere", 20)
    with pytest.raises(jdl.Error), hold_lock(tmp_path):
        pass
    assert time.time() - (tmp_path / "lock").stat().st_mtime > 15


def test_a_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with hold_lock(tmp_path):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / "lock").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
