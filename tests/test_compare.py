"""Comparison of two runs: what differs is found, at its step and in its array.

Seen to fail: environments compared without the size of the CPU's thread pool, or
without the resumes; a temporary folder after a training that fails; a run that ends at step 9 of 12
called equal to the other without a word; the code not compared, the line of another file's.
"""

import json
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import jax
import kitchen_sink
import numpy as np
import pytest
from harness import train

import jdl
from jdl.cli.diff import report
from jdl.inspect.compare import compare, repeat
from jdl.store.checkpoints import Checkpoints
from jdl.store.code import code_hashes, write_code

FIELDS = {"steps": 12, "eval_every": 0, "save_every": 1, "keep": 12}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), **FIELDS)


def line(comparison, subject):
    return next(line for line in comparison.lines if line.startswith(subject))


@pytest.mark.slow
def test_equal_runs_are_equal_however_they_came_about(whole, tmp_path):
    for until in (4, 9):
        with pytest.raises(jdl.Error, match=f"paused, as --until says, after step {until}"):
            train(tmp_path, **FIELDS, until=until)
    comparison = compare(whole.folder, train(tmp_path, **FIELDS).folder)
    assert comparison.first_difference is None
    assert line(comparison, "steps").endswith("12 of 12 compared, all equal")
    assert "15 compared, all arrays equal" in line(
        comparison, "states"
    )  # 0 to 12, and 4 and 9, from which it resumed


@pytest.mark.slow
def test_another_learning_rate_is_found_in_its_first_step(whole, tmp_path):
    other = train(tmp_path, **FIELDS, lr=0.011)
    comparison = compare(whole.folder, other.folder)
    assert "lr: 0.01 in A, 0.011 in B" in line(comparison, "config")
    assert comparison.first_difference == 2  # the rate rises from 0: the first update is none
    assert line(comparison, "steps").startswith("steps        differ first in step 2: param_norm: ")
    assert "differ first after step 2: params/BatchNorm_0/bias and" in line(comparison, "states")
    assert "after step 1 all arrays were equal" in line(comparison, "states")


def test_environments_with_other_thread_pools_differ(whole, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, cores in zip(folders, (6, 8), strict=True):
        shutil.copytree(whole.folder, folder)
        record = json.loads((folder / "run.json").read_text())
        record["environment"]["variables"].pop("PJRT_NPROC")
        record["environment"]["host"]["cores"] = cores
        (folder / "run.json").write_text(json.dumps(record))
    environment = line(compare(*folders), "environment")
    assert environment == "environment  CPU thread pool: 6 in A, 8 in B"


CODE = {
    "differs": ({"net.py": b"a\nb\n"}, {"net.py": b"a\nc\n"}, "net.py differs, line 2"),
    "longer": ({"net.py": b"a\n"}, {"net.py": b"a\nc\n"}, "net.py differs, line 2"),
    "alone": ({"b.py": b"", "net.py": b""}, {"net.py": b""}, "b.py is in A alone"),
    "equal": ({"net.py": b"a"}, {"net.py": b"a"}, "equal"),
    "not kept": ({}, {}, "not kept; the compiled step or the initial state differs"),
}


@pytest.mark.parametrize("name", CODE)
def test_the_code_of_two_runs_is_compared(whole, tmp_path, name):
    *texts, expected = CODE[name]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, files in zip(folders, texts, strict=True):
        shutil.copytree(whole.folder, folder, ignore=shutil.ignore_patterns("code"))
        write_code(folder, files)
        record = json.loads((folder / "run.json").read_text())
        changed = {**record, "code": code_hashes(files), "program": folder.name}
        (folder / "run.json").write_text(json.dumps(changed))
    assert line(compare(*folders), "code") == f"code         {expected}"


def test_the_code_before_a_resume_is_not_forgotten(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "b")
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    segments = [{"step": 3, "program_before": "another"}]
    (tmp_path / "b" / "run.json").write_text(json.dumps({**record, "segments": segments}))
    text = line(compare(whole.folder, tmp_path / "b"), "code")
    assert text.endswith("but B had other code before a resume")


def test_runs_of_which_one_has_not_come_as_far_are_equal_up_to_there(whole, tmp_path, capsys):
    shutil.copytree(whole.folder, tmp_path / "b")
    trace = (whole.folder / "trace.f32").read_bytes()
    (tmp_path / "b" / "trace.f32").write_bytes(trace[: len(trace) // 12 * 9])
    whole_first = [whole.folder, tmp_path / "b"]
    for folders, name in ((whole_first, "B"), (whole_first[::-1], "A")):
        report(compare(*folders))
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.endswith(f"equal, to the bit, as far as both have come: {name} ends at step 9.")


def test_an_environment_that_changed_at_a_resume_differs(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "resumed")
    path = tmp_path / "resumed" / "run.json"
    record = json.loads(path.read_text())
    variables = {**record["environment"]["variables"], "PJRT_NPROC": "5"}
    environment = {**record["environment"], "variables": variables}
    path.write_text(json.dumps({**record, "segments": [{"environment": environment}]}))
    text = line(compare(whole.folder, tmp_path / "resumed"), "environment")
    assert text == "environment  after a resume, CPU thread pool: 8 in A, 5 in B"


@pytest.mark.slow
def test_a_repetition_that_is_equal_leaves_nothing_behind(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert repeat(whole.folder, quiet=True).first_difference is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [jdl.Error("no"), KeyboardInterrupt()])
def test_a_repetition_that_breaks_off_leaves_nothing_behind(whole, tmp_path, monkeypatch, error):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with patch("jdl.inspect.compare.fit", side_effect=error), pytest.raises(type(error)):
        repeat(whole.folder, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_repeat_finds_a_rate_that_the_record_conceals(whole, tmp_path):
    other = train(tmp_path, **FIELDS, lr=0.011)
    path = other.folder / "run.json"
    path.write_text(path.read_text().replace('"lr": 0.011', '"lr": 0.01'))
    comparison = repeat(other.folder, quiet=True)
    assert comparison.first_difference == 2
    assert "run.json was edited" in line(comparison, "record")
    assert "repeats itself to the bit" in line(comparison, "this machine")


@pytest.mark.slow
def test_repeat_finds_one_changed_label(tmp_path):
    digits = jdl.data.digits

    def mislabelled():
        train, test = digits()
        columns = train.source.take(np.arange(len(train.source)))
        columns["y"] = np.where(
            np.arange(len(train.source)) == row, (columns["y"] + 1) % 10, columns["y"]
        )
        return replace(train, source=jdl.data.arrays(train.labels, **columns).source), test

    run = kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink", steps=12))
    batches = [
        np.asarray(run.train[i]["id"])[np.asarray(run.train[i]["mask"])].tolist() for i in range(12)
    ]
    first = 4
    row = next(i for i in batches[first] if not any(i in batch for batch in batches[:first]))
    with patch.object(jdl.data, "digits", mislabelled):
        other = train(tmp_path, **FIELDS)
    comparison = repeat(other.folder, quiet=True)
    assert "train: " in line(comparison, "data")
    assert comparison.first_difference == first + 1
    assert f"after step {first} all arrays were equal" in line(comparison, "states")


@pytest.mark.slow
def test_repeat_finds_one_flipped_weight(whole, tmp_path):
    with pytest.raises(jdl.Error, match="paused"):
        train(tmp_path, **FIELDS, until=7)
    folder = next(tmp_path.glob("*/*/seed0"))
    checkpoints = Checkpoints(folder / "checkpoints", "max accuracy", keep=12)
    state, host = checkpoints.restore(jax.eval_shape(lambda state: state, whole.state))
    layer = state.params["head"]["Dense_0"]
    kernel = np.array(layer["kernel"])
    kernel[3, 1] = np.nextafter(kernel[3, 1], np.float32(1))
    layer["kernel"] = jax.numpy.asarray(kernel)
    checkpoints.close()
    shutil.rmtree(folder / "checkpoints" / "7")
    checkpoints = Checkpoints(folder / "checkpoints", "max accuracy", keep=12)
    checkpoints.save(7, state, host)
    checkpoints.close()
    other = train(tmp_path, **FIELDS)
    comparison = repeat(other.folder, quiet=True)
    assert comparison.first_difference == 7
    assert (
        "after step 7, in the state that training resumed from: params/head/Dense_0/kernel;"
        in line(comparison, "states")
    )


@pytest.mark.slow
def test_the_verbs_end_with_an_exit_code(whole, tmp_path):
    other = train(tmp_path, **FIELDS, seed=1)
    same = subprocess.run(
        ["jdl", "diff", str(whole.folder), str(whole.folder)], capture_output=True, text=True
    )
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "The runs are equal, to the bit.")
    differ = subprocess.run(
        ["jdl", "diff", str(whole.folder), str(other.folder)], capture_output=True, text=True
    )
    assert differ.returncode == 1
    assert "differ first after step 0" in differ.stdout
    repeated = subprocess.run(["jdl", "repeat", str(whole.folder)], capture_output=True, text=True)
    assert (repeated.returncode, repeated.stdout.splitlines()[-1]) == (
        0,
        "The runs are equal, to the bit.",
    )


def test_a_run_without_a_trace_is_refused(whole, tmp_path):
    (tmp_path / "run.json").write_text(
        json.dumps(json.loads((whole.folder / "run.json").read_text()))
    )
    with pytest.raises(jdl.Error, match="has no trace of its steps"):
        compare(whole.folder, Path(tmp_path))
