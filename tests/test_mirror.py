"""The mirror of a run's folder: a run whose disk is lost ends with the bits of one that was not.

Seen to fail: a manifest that is copied first, logs that are copied after the checkpoint, damage
that is not looked for in what was brought back, --fresh by a recursive move, on S3, a mirror that
may be ahead, temporary files that were brought back or stayed, and a full disk taken for a URL.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

import fsspec
import optax
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from harness import Killed, digest, folder_of, lines

import jdl
from jdl.models.mlp import MLP
from jdl.store import log, manifest, mirror, step_trace
from jdl.store.folder import DiskError
from jdl.store.manifest import NAME
from jdl.train.preemption import PausedError

OPTIONS = {"eval_every": 3, "save_every": 3, "log_every": 1, "quiet": True}


def train(root, steps=12, hooks=(), **options):
    """Trains a perceptron for twelve steps."""
    rows, test = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(MLP(10, hidden=())), optax.sgd(0.1))
    run = jdl.Run(
        jdl.Config(name="mirrored", steps=steps),
        learner,
        rows.shuffled(24, 0),
        test=test.batches(200),
        hooks=hooks,
    )
    return jdl.fit(run, jdl.Options(root=root, **OPTIONS, **options))


def stopped(root, until=8, **options):
    """The folder of the same run, which stops on the way."""
    with pytest.raises(PausedError):
        train(root, until=until, **options)
    return folder_of(root)


def files(place):
    """What is in a run's folder, but the lock: its bytes by name."""
    paths = [path for path in place.rglob("*") if path.is_file() and path.name != "lock"]
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}


class Failing(MemoryFileSystem):
    """A memory that breaks off after some writes, as a network does."""

    protocol = "failing"
    store, pseudo_dirs, cachable = {}, [""], False
    left = 0  # writes

    def put_file(self, *paths, **options):
        if Failing.left <= 0:
            raise OSError("no network")
        Failing.left -= 1
        super().put_file(*paths, **options)

    def rm_file(self, path):
        if Failing.left <= 0:
            raise OSError("no network")
        Failing.left -= 1
        super().rm_file(path)


class Slow(MemoryFileSystem):
    """A memory that takes what checks it, and no more until it may."""

    protocol, cachable = "slow", False
    may = threading.Event()

    def put_file(self, *paths, **options):
        if ".jdl" not in paths[1]:
            self.may.wait()
        super().put_file(*paths, **options)


@pytest.fixture(autouse=True)
def _empty():
    fsspec.filesystem("memory").store.clear()
    Failing.store.clear()
    Failing.left = 0
    Slow.may.clear()
    for kind in Failing, Slow:
        fsspec.register_implementation(kind.protocol, kind, clobber=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without a mirror: the digest of its state, and its log."""
    result = train(tmp_path_factory.mktemp("plain"))
    return digest(result), lines(result)


@pytest.fixture
def place(tmp_path):
    """A run that was stopped at step 8, and whose disk is lost: its folder in the mirror."""
    stopped(tmp_path / "lost", mirror=f"file://{tmp_path}/mirror")
    shutil.rmtree(tmp_path / "lost")
    return folder_of(tmp_path / "mirror")


def damage(checkpoint):
    """Flips a bit in the largest file of a checkpoint."""
    paths = (path for path in checkpoint.rglob("*") if path.is_file())
    path = max(paths, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def until(holds):
    """Waits for what a thread does."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def mirror_of(folder, root, url):
    """The mirror of a run's folder, opened as a run does: if there is no folder, it is brought."""
    opened = mirror.open_mirror(folder, jdl.Options(root=root, mirror=url))
    assert opened is not None
    return opened


def loses_its_disk(tmp_path, url, plain):
    """The folder and files of a run that is stopped, loses its disk, and goes on with the mirror.

    It has the bits of one that was never stopped, and is brought back whole.
    """
    stopped(tmp_path / "lost", mirror=url)
    shutil.rmtree(tmp_path / "lost")
    second = train(tmp_path / "new", mirror=url)
    assert second.steps == 4
    assert (digest(second), lines(second)) == plain
    whole = files(second.folder)
    shutil.rmtree(tmp_path / "new")
    mirror_of(second.folder, tmp_path / "new", url)
    assert files(second.folder) == whole  # the best checkpoint too, and none that was removed
    return second.folder, whole


@pytest.mark.slow
def test_a_run_whose_disk_is_lost_ends_with_the_bits_of_one_that_was_not(tmp_path, plain):
    folder, _ = loses_its_disk(tmp_path, "memory://runs/mine", plain)
    assert len(list(folder.glob("checkpoints/*"))) in (2, 3)


def kill_at_8(root, place):
    """Trains to step 8, and once the checkpoint of step 6 is in the mirror, SIGKILL."""

    def kill(step, state, metrics):
        until(lambda: list(Path(place).glob(f"*/*/seed*/checkpoints/6/{NAME}")))
        os.kill(os.getpid(), signal.SIGKILL)

    train(Path(root), hooks=[(8, kill)], mirror=f"file://{place}")


@pytest.mark.slow
def test_a_killed_process_is_followed_by_one_with_an_empty_disk(tmp_path, plain):
    place = tmp_path / "mirror"
    call = f"import test_mirror; test_mirror.kill_at_8({str(tmp_path / 'lost')!r}, {str(place)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", call], env=environment, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "lost")
    second = train(tmp_path / "new", mirror=f"file://{place}")
    assert second.steps == 6
    assert (digest(second), lines(second)) == plain


@pytest.mark.slow
def test_a_copy_that_breaks_off_anywhere_leaves_what_a_run_resumes_from(tmp_path):
    """Whole checkpoints only, and logs that reach as far as the newest."""
    early, late = stopped(tmp_path / "early", until=4), stopped(tmp_path / "late", until=8)
    for events in early.glob("events*"):
        events.unlink()
    fs, newest = fsspec.filesystem("failing"), []
    for changes in range(100):
        Failing.store.clear()
        Failing.left = 10**6
        mirror.Mirror(fs, "/m", early).push(early / "checkpoints")
        Failing.left = changes
        with suppress(OSError):
            mirror.Mirror(fs, "/m", late).push(late / "checkpoints")
        mirror.Mirror(fs, "/m", new := tmp_path / str(changes)).pull()
        steps = [int(path.name) for path in new.glob("checkpoints/*")]
        assert all(manifest.damage(path) is None for path in new.glob("checkpoints/*"))
        newest.append(max(steps))
        assert {line["step"] for line in log.read(new)} >= set(range(1, max(steps) + 1))
        assert len(step_trace.read_trace(new)) >= max(steps)
        if Failing.left:
            break
    assert newest[0] == 4
    assert newest[-1] == 8
    assert files(new) == files(late)


def test_what_a_kill_leaves_in_the_mirror_is_not_brought_back(place, tmp_path, monkeypatch):
    """A half-written file, and that of the check; the next copy removes them."""
    folder = tmp_path / "new" / place.relative_to(tmp_path / "mirror")
    url = f"file://{tmp_path}/mirror"
    before = files(place)
    copy = mirror.Mirror(*fsspec.url_to_fs(str(place), auto_mkdir=True), folder)

    def kill(*args):
        raise Killed

    for method, write in {
        "rm_file": copy.check,
        "mv": lambda: copy._put(place / "run.json", "samples/run.json"),
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, method, kill)
            patch.setattr(os, "getpid", lambda: 1)
            with pytest.raises(Killed):
                write()
    assert len(files(place)) == len(before) + 2
    opened = mirror_of(folder, tmp_path / "new", url)
    assert files(folder) == before
    opened.push(folder / "checkpoints")
    assert files(place) == before


def test_a_full_disk_is_said_to_be_full(place, tmp_path, monkeypatch):
    def fill(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "get_file", fill)
    with pytest.raises(DiskError, match=r"disk of .*new/.*/seed0 is full") as error:
        train(tmp_path / "new", mirror=f"file://{tmp_path}/mirror")
    assert "credentials" not in str(error.value)
    assert not list((tmp_path / "new").rglob("*seed0*"))


def test_a_damaged_object_is_refused(place, tmp_path, plain):
    url, folder = (
        f"file://{tmp_path}/mirror",
        tmp_path / "new" / place.relative_to(place.parents[2]),
    )
    damage(place / "checkpoints" / "8")
    second = train(tmp_path / "new", mirror=url)
    assert second.steps == 6
    assert (digest(second), lines(second)) == plain
    assert (folder / "damaged" / "8.0").is_dir()
    for checkpoint in place.glob("checkpoints/*"):
        if manifest.damage(checkpoint) is None:  # what is damaged there stays too, as here
            damage(checkpoint)
    shutil.rmtree(tmp_path / "new")
    for _ in range(2):  # nothing is left there that a second try would take for the run
        with pytest.raises(jdl.Error, match=r"no intact checkpoint: .* has changed since"):
            train(tmp_path / "new", mirror=url)
        assert not folder.exists()


def test_a_failing_mirror_neither_stops_nor_changes_a_run(tmp_path, plain):
    Failing.left = 3
    with pytest.warns(UserWarning, match="mirror failing://m/") as warned:
        result = train(tmp_path, mirror="failing://m")
    assert (digest(result), lines(result)) == plain
    texts = [str(one.message) for one in warned]
    assert [text.count("OSError: no network") for text in texts] in ([1, 1], [1])
    assert "is behind the run's folder" in texts[-1]


def test_what_failed_is_brought_up_at_the_next_checkpoint(tmp_path, plain):
    Failing.left = 2  # for what is tried at the start
    copying = mirror.BackgroundMirror(mirror_of(stopped(tmp_path), tmp_path, "failing://m"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        copying.enqueue()
        until(lambda: copying._problem == "OSError: no network")
        Failing.left = 10**6
        copying.enqueue()
        until(lambda: not copying._problem)
        copying.close()
    assert ["tried again at each checkpoint" in str(one.message) for one in warned] == [True]
    folder = folder_of(tmp_path)
    whole = {name for name in files(folder) if not name.startswith(".")}
    assert {name.removeprefix("failing://m/") for name in Failing.store} == {
        f"{folder.relative_to(tmp_path)}/{name}" for name in whole
    }
    assert not (folder / ".mirror").exists()


def test_a_slow_mirror_is_waited_for_at_the_end_and_not_for_ever(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(mirror, "CLOSE_SECONDS", 0.2)
    with pytest.warns(UserWarning, match="last copy has not ended within 0 s"):
        result = train(tmp_path, mirror="slow://m")
    assert (digest(result), lines(result)) == plain
    links = [int(path.name) for path in (result.folder / ".mirror").glob("*")]
    assert len(links) == 2  # what is copied, and the newest that waits
    Slow.may.set()


def test_fresh_moves_the_run_aside_there_too(place, tmp_path, plain):
    second = train(tmp_path / "new", mirror=f"file://{tmp_path}/mirror", fresh=True)
    assert second.steps == 12
    assert (digest(second), lines(second)) == plain
    assert (place.with_name("seed0.1") / "checkpoints" / "8" / NAME).is_file()
    assert {path.name for path in place.glob("checkpoints/*")} == {
        path.name for path in second.folder.glob("checkpoints/*")
    }


def test_a_folder_that_is_behind_its_mirror_is_refused(place, tmp_path):
    """Else the mirror's later checkpoints would be removed."""
    stopped(tmp_path / "new", until=4)
    before = files(place)
    with pytest.raises(jdl.Error, match=r"later than all of .* move that folder away"):
        train(tmp_path / "new", mirror=f"file://{tmp_path}/mirror")
    assert files(place) == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://bucket", "cannot be opened: ValueError: Protocol not known: nowhere"),
        ("file:///proc/jdl", "mirror /proc/jdl/mirrored/.* cannot be written: .* credentials"),
        ("failing://m", "cannot be written: OSError: no network"),
    ],
)
def test_a_mirror_that_cannot_be_written_is_refused_at_once(tmp_path, url, message):
    with pytest.raises(jdl.Error, match=message):
        train(tmp_path / "runs", mirror=url)
    assert not (tmp_path / "runs").exists()


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "find_spec", lambda name: None)
    with pytest.raises(jdl.Error, match=r"needs fsspec: pip install 'jdl\[mirror\]'"):
        train(tmp_path, mirror="s3://bucket")
    monkeypatch.undo()
    fsspec.register_implementation("lacking", "no_such_module.FileSystem", True, "Install it")
    with pytest.raises(jdl.Error, match=r"needs the library of its protocol .* has s3fs"):
        train(tmp_path, mirror="lacking://bucket")


def test_only_the_first_process_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror.processes, "is_first", lambda: False)
    options = jdl.Options(root=tmp_path, mirror="failing://m")
    assert mirror.open_mirror(tmp_path / "run", options) is None


def test_a_server_that_speaks_s3(tmp_path, plain, monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    try:
        with pytest.raises(jdl.Error, match=r"cannot be written: .*bucket does not exist"):
            train(tmp_path / "lost", mirror="s3://runs/mine")
        fsspec.filesystem("s3").mkdir("runs")
        folder, whole = loses_its_disk(tmp_path, "s3://runs/mine", plain)
        train(tmp_path / "fresh", mirror="s3://runs/mine", fresh=True)
        aside = f"runs/mine/{folder.relative_to(tmp_path / 'new')}.1"
        assert len(fsspec.filesystem("s3").find(aside)) == len(whole)
    finally:
        server.stop()
