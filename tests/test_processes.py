"""Several processes train one run: the same bits as one; they end together, and resume.

Seen to fail: the digest, with each process numbering its shards from 0; the parts of a batch, with
the wrong ones read; stragglers, with their own share in the median, and named at each look; the
checksums, with a shard's place mistaken; steps that go on, with a save that is waited for; a late
straggler, with the share since the first look, and with an earlier run's entry; texts, with their
folder deleted; definitions that start JAX, with true streams for an NNX module.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from harness import SCRIPT, command, digest, finish, folder_of, lines, spawn
from jax._src.lib import _jax

from jdl.inspect.restore import restore
from jdl.parallel import processes
from jdl.store.manifest import damage
from jdl.store.step_trace import read_leaves, write_leaves
from jdl.train.distributed import in_cluster
from jdl.train.launch import free_port
from jdl.train.stragglers import StragglerWatch, stragglers

FLAGS = ("--elastic", 4, "--save-every", 10)


@pytest.mark.slow
def test_no_definition_of_a_model_starts_jax():
    """Else a script whose models are made at its top could not join other processes."""
    code = (
        "import model_table, unsupervised_table\n"
        "from jax._src import xla_bridge\n"
        "raise SystemExit(xla_bridge.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The root of an elastic run in one process on one device."""
    root = tmp_path_factory.mktemp("alone")
    finish(spawn(root, *FLAGS))
    return root


def end(root):
    """How a run ended: its digest, and its log."""
    folder = folder_of(root)
    return digest(folder), lines(folder)


@pytest.mark.slow
def test_two_processes_end_in_the_same_bits_as_one(alone, tmp_path):
    output = finish(spawn(tmp_path, *FLAGS, processes=2, devices=2))
    assert end(tmp_path) == end(alone)
    assert output.count("test   accuracy") == 1  # one process writes


def wait_for(condition):
    """What the condition gives as soon as it is true."""
    deadline = time.time() + 200
    while not (value := condition()):
        assert time.time() < deadline
        time.sleep(0.005)
    return value


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_goes_on(alone, tmp_path):
    for lost in (1, 0):
        running = spawn(tmp_path, *FLAGS, processes=2, devices=2)
        words = ["pgrep", "-f", "--", f"--root {tmp_path} .*--process {lost}$"]
        saved = f"*/*/seed0/checkpoints/{20 if lost else 40}"
        pid = wait_for(lambda words=words: subprocess.run(words, capture_output=True).stdout)
        wait_for(lambda saved=saved: any(tmp_path.glob(saved)))
        os.kill(int(pid), signal.SIGKILL)
        began = time.time()
        output, _ = running.communicate(timeout=120)
        assert time.time() - began < 60
        assert running.returncode != 0
        assert f"process {lost} of 2 was killed by {signal.Signals.SIGKILL.name}" in output
    finish(spawn(tmp_path, *FLAGS, processes=4, devices=1))
    assert end(tmp_path) == end(alone)


@pytest.mark.slow
def test_a_process_that_compiles_longer_is_waited_for(root, tmp_path):
    """Seen to fail without `connect`: Gloo waits 30 s for the first collective of a group."""
    script = root / "tests" / "scripts" / "late_process.py"
    flags = ("--mesh", "data=2", "--trace-seconds", 40)
    finish(spawn(tmp_path, *flags, script=script, processes=2, devices=1))


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A fully sharded run whose second process reads slowly; its folder and its output.

    Its disk holds the first checkpoint back until five further steps are logged.
    """
    base = tmp_path_factory.mktemp("late")
    flags = ["--mesh", "fsdp=2", "--steps", 60, "--eval-every", 0, "--save-every", 20]
    flags += ["--row-seconds", 0.6]  # longer than a step on a busy machine
    flags += ["--disk-waits-for", base / "go_on"]
    running = spawn(
        base, *flags, script=SCRIPT.with_name("late_process.py"), processes=2, devices=1
    )
    wait_for(lambda: list(base.glob("*/*/seed0/metrics.jsonl")))
    folder = folder_of(base)
    try:
        wait_for(lambda: len(lines(folder)) > 24)
        assert not (folder / "checkpoints" / "20" / "manifest.json").exists()
    finally:
        (base / "go_on").touch()
    return folder, finish(running)


@pytest.mark.slow
def test_a_process_that_waits_for_its_data_is_named_once(late):
    _, output = late
    assert output.count("Process 1 of 2, on") == 1, output
    assert "Process 0 of 2" not in output


@pytest.mark.slow
def test_steps_go_on_while_several_processes_save(late):
    folder, _ = late
    for step in (40, 60):
        assert damage(folder / "checkpoints" / str(step)) is None


@pytest.mark.slow
def test_checksums_of_shards_are_those_of_whole_leaves(late, tmp_path):
    folder, _ = late
    write_leaves(tmp_path, restore(folder).state)
    assert read_leaves(tmp_path)[0] == read_leaves(folder)[-1]


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ({}, []),
        ({0: 0.9}, []),  # alone
        ({0: 0.9, 1: 0.8, 2: 0.9}, []),  # all wait
        ({0: 0.01, 1: 0.05, 2: 0.0}, []),  # five times as long, and not worth a word
        ({0: 0.01, 1: 0.5, 2: 0.0, 3: 0.4}, [1, 3]),
        ({0: 0.3, 1: 0.59}, []),
        ({0: 0.3, 1: 0.61}, [1]),
    ],
)
def test_stragglers_wait_much_longer_than_the_median_of_the_others(shares, found):
    assert list(stragglers(shares)) == found


@pytest.fixture
def become(monkeypatch):
    """Makes this one the process 0 or 1 of two, with JAX's key-value store and no devices."""
    address = f"127.0.0.1:{free_port()}"
    service = _jax.get_distributed_runtime_service(address, 1)
    client = _jax.get_distributed_runtime_client(address, 0)
    client.connect()
    monkeypatch.setattr(processes, "_client", lambda: client)
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "WAIT_MILLISECONDS", 2000)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    yield lambda process: monkeypatch.setattr(jax, "process_index", lambda: process)
    client.shutdown()
    service.shutdown()


def test_texts_are_gathered_beside_those_of_a_name_within(become):
    become(1)
    processes.publish("leaves/20/start", "b")
    processes.publish("leaves/20", "B")
    become(0)
    assert processes.collect("leaves/20", "A") == ["A", "B"]
    assert processes.collect("leaves/20/start", "a") == ["a", "b"]
    assert processes.published("leaves/20") == {}


def test_a_process_that_becomes_a_straggler_is_named_within_a_minute(become, monkeypatch):
    clock, waited, notes, watches = [0.0], [0.0, 0.0], [], []
    monkeypatch.setattr("jdl.train.stragglers.time", SimpleNamespace(monotonic=lambda: clock[0]))
    for process in (0, 1):
        become(process)
        processes.publish("data_waits", json.dumps([process, "of an earlier run"]))
        watches.append(StragglerWatch(lambda n=process: waited[n], notes.append))
    for clock[0] in range(0, 3660, 5):
        waited[1] += 4 * (clock[0] > 3600)
        for process in (0, 1):
            become(process)
            watches[process].look()
        assert clock[0] > 3600 or not notes
    assert len(notes) == 1
    assert notes[0].startswith("Process 1 of 2")


@pytest.mark.nightly
def test_a_streamed_batch_is_read_in_parts(tmp_path):
    """Each process reads the rows of its own devices, and all together what one reads."""
    for name, flags in (("kept", ()), ("streamed", ("--streamed",))):
        finish(
            spawn(
                tmp_path / name,
                "--save-every",
                0,
                "--eval-every",
                0,
                *flags,
                processes=2,
                devices=2,
            )
        )
    assert lines(folder_of(tmp_path / "kept")) == lines(folder_of(tmp_path / "streamed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--processes", 2), "needs all of --coordinator HOST:PORT --processes N --process I"),
        (
            ("--coordinator", "here", "--processes", 2, "--process", 0),
            "HOST:PORT of the first process",
        ),
        (
            ("--coordinator", "127.0.0.1:1234", "--processes", 2, "--process", 2),
            "out of range for --processes 2",
        ),
        (
            ("--coordinator", "no.such.host.invalid:1234", "--processes", 2, "--process", 1),
            "cannot be resolved",
        ),
    ],
)
def test_processes_that_cannot_meet_are_refused_at_once(tmp_path, flags, message):
    done = subprocess.run(
        command(tmp_path / "runs", *flags), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_first_process_that_is_absent_is_reported(tmp_path):
    where = ("--coordinator", "127.0.0.1:9", "--processes", 2, "--process", 1)
    done = subprocess.run(
        command(tmp_path / "runs", *where), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert "could not be reached at 127.0.0.1:9" in done.stderr


@pytest.mark.slow
def test_processes_with_different_configs_are_refused(tmp_path):
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2)
    running = [
        spawn(tmp_path / "runs", *where, "--process", n, "--lr", rate, devices=1)
        for n, rate in ((0, 0.1), (1, 0.2))
    ]
    ended = [(process.communicate(timeout=120)[0], process.returncode) for process in running]
    assert [code for _, code in ended] == [2, 2], ended
    assert "was started with another run" in ended[0][0]
    assert "0.2" in ended[0][0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1"}, False),  # within an allocation, but not by srun
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
    ],
)
def test_a_cluster_is_known_by_its_environment(environment, expected):
    assert in_cluster(environment) == expected


def test_launch_needs_a_number_and_a_script():
    done = subprocess.run(["jdl", "launch", "two"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "jdl launch 2 SCRIPT.py" in done.stderr
