"""The loop's other promises: what is kept, when it stops, what it refuses."""

import dataclasses
import json
import math
import os
import random
import shutil
import signal

import jax
import kill_storm
import kitchen_sink
import numpy as np
import pytest
from harness import digest, lines, stopped_at, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import jdl
from jdl.store.catalog import entry
from jdl.store.checkpoints import Checkpoints, state_digest
from jdl.store.lock import hold_lock
from jdl.store.manifest import damage, write_manifest
from jdl.store.record import open_run
from jdl.store.times import recorded_times
from jdl.train.preemption import PausedError
from jdl.train.summary import summarize


def entries(result, split):
    return [line for line in map(json.loads, lines(result)) if line["split"] == split]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of two steps."""
    return train(tmp_path_factory.mktemp("short"), steps=2)


@pytest.fixture
def result(short, tmp_path):
    """The same under `tmp_path`, for a test to change."""
    folder = tmp_path / short.folder.relative_to(short.folder.parents[2])
    return dataclasses.replace(short, folder=shutil.copytree(short.folder, folder))


@pytest.mark.parametrize(("save_every", "latest"), [(5, {55, 60}), (0, {60})])
def test_the_latest_and_the_best_checkpoints_are_kept(tmp_path, save_every, latest):
    result = train(tmp_path, eval_every=5, save_every=save_every, keep=2)
    kept = sorted(
        int(path.name) for path in (result.folder / "checkpoints").iterdir() if path.name.isdigit()
    )
    by_step = {line["step"]: line["accuracy"] for line in entries(result, "valid")}
    best = max(by_step.values())
    assert latest <= set(kept)
    assert len(kept) <= 3
    assert max(by_step[step] for step in kept) == best
    checkpoints = Checkpoints(result.folder / "checkpoints", "max accuracy")
    assert by_step[checkpoints.best()] == best
    checkpoints.close()


def test_early_stopping_is_config_and_resumes_to_the_same_end(tmp_path):
    fields = {"steps": 60, "lr": 0.3, "patience": 2, "check_every": 4}
    whole = train(tmp_path / "a", **fields)
    checks = [line["accuracy"] for line in entries(whole, "valid") if line["step"] % 4 == 0]
    stopped = int(whole.state.step)
    assert stopped < 60
    assert max(checks[-2:]) <= max(checks[:-2])
    assert digest(train(tmp_path / "b", **fields, eval_every=1, save_every=1)) == digest(whole)
    again = train(tmp_path / "a", **fields)
    assert again.steps == 0
    assert int(again.state.step) == stopped
    best = max(entries(whole, "valid"), key=lambda line: line["accuracy"])["step"]
    assert best < stopped
    for result in (whole, again):
        assert f"step {best} was best: jdl evaluate {whole.folder} --best" in summarize(result)


def test_a_finished_run_is_only_evaluated_again(tmp_path):
    first = train(tmp_path, steps=10)
    before = lines(first)
    again = train(tmp_path, steps=10)
    assert again.steps == 0
    assert lines(again) == before
    curves, of_valid = first.history, entries(first, "valid")
    assert [*curves] == ["train", "valid", "test"]
    assert curves["valid"]["step"] == [line["step"] for line in of_valid]
    assert curves["valid"]["accuracy"] == [line["accuracy"] for line in of_valid]
    assert again.metrics["test"]["accuracy"].value() == first.metrics["test"]["accuracy"].value()


def test_the_time_is_that_of_all_processes(tmp_path):
    with pytest.raises(PausedError):
        train(tmp_path, steps=10, until=4)
    (folder,) = tmp_path.glob("*/*/seed0")
    before = recorded_times(folder)
    assert before.steps == 4
    result = train(tmp_path, steps=10)
    whole = recorded_times(folder)
    assert (result.steps, whole.steps) == (6, 10)
    assert whole.seconds > before.seconds + result.seconds - 1e-3
    assert before.data_seconds < whole.data_seconds < whole.seconds
    again = train(tmp_path, steps=10)  # trains nothing, and is a process more
    summarize(again)
    assert again.steps == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seconds"] == whole.seconds == recorded_times(folder).seconds
    (folder / "times.jsonl").write_text("broken\n")
    assert recorded_times(folder) is None


def test_a_step_is_traced_once(tmp_path, monkeypatch):
    """For the check before the run and for the program: tracing is most of a short run's start."""
    traced, schedule = [], kitchen_sink.schedule
    monkeypatch.setattr(
        kitchen_sink, "schedule", lambda c: lambda step: traced.append(step) or schedule(c)(step)
    )
    train(tmp_path, steps=2)
    assert len(traced) == 1


def test_fresh_moves_the_old_run_aside(tmp_path):
    first = train(tmp_path, steps=10)
    before = lines(first)
    second = train(tmp_path, steps=10, fresh=True)
    assert second.steps == 10
    aside = first.folder.with_name("seed0.1")
    assert (aside / "metrics.jsonl").read_text().splitlines() == before == lines(second)
    assert (aside / "checkpoints" / "10").is_dir()
    assert train(tmp_path, steps=10, fresh=True).folder.with_name("seed0.2").is_dir()


def test_a_loss_that_is_not_finite_stops_at_its_step_with_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        jdl.Error, match=r"The param_norm of step 13 is inf.*the checkpoint of step 12 is kept"
    ):
        train(tmp_path, explode_at=12, save_every=1)
    folder = next(tmp_path.glob("*/*/seed0"))
    checkpoints = Checkpoints(folder / "checkpoints", "max accuracy")
    run = kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink", explode_at=12))
    like = jax.eval_shape(run.learner.init, jax.random.key(0), run.train[0])
    state, _ = checkpoints.restore(like)
    checkpoints.close()
    assert int(state.step) == checkpoints.latest() == 12
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_what_is_on_disk(tmp_path):
    result = train(tmp_path, steps=10)
    record = json.loads((result.folder / "run.json").read_text())
    assert record["config"]["lr"] == 1e-2
    assert result.folder.relative_to(tmp_path).parts == ("kitchen_sink", record["digest"], "seed0")
    assert set(record["data"]) == {"train", "valid", "test"}
    assert record["environment"]["devices"]["kind"] == "cpu"
    assert record["environment"]["versions"]["jax"]
    train_lines = entries(result, "train")
    assert [line["step"] for line in train_lines] == list(range(1, 11))
    assert {"loss", "accuracy", "grad_norm", "update_norm", "param_norm"} <= set(train_lines[0])
    assert entries(result, "test")[-1]["step"] == 10
    text = summarize(result)
    assert "waited" in text
    assert (result.folder / "figures" / "test_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert math.isfinite(
        json.loads((result.folder / "summary.json").read_text())["metrics"]["test"]["loss"]
    )
    events = EventAccumulator(str(result.folder))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    assert logged == {line["step"]: np.float32(line["loss"]) for line in train_lines}


def test_a_second_process_on_the_same_run_is_refused(result, tmp_path):
    with (
        hold_lock(result.folder),
        pytest.raises(jdl.Error, match="being trained already, by process"),
    ):
        train(tmp_path, steps=2)


def edit(folder, change):
    path = folder / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


CHANGES = {
    "config": (
        lambda record: record["config"].update(lr=5.0) or record.update(digest="old"),
        "another config .lr: 5.0 there, 0.01 here",
    ),
    "best": (
        lambda record: record.update(best="min loss"),
        "another metric for the best checkpoint .best: min loss there, max acc",
    ),
    "data": (lambda record: record["data"].update(train="f00"), "other data .train: f00 there"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_run_is_refused_with_the_difference_or_accepted_and_recorded(
    result, tmp_path, name
):
    change, message = CHANGES[name]
    before = json.loads((result.folder / "run.json").read_text())
    edit(result.folder, change)
    for accept in ((), tuple(CHANGES.keys() - {name})):
        with pytest.raises(jdl.Error, match=rf"{message}.*--accept {name} to continue"):
            train(tmp_path, steps=2, accept=accept)
    edited = (result.folder / "run.json").read_bytes()
    with pytest.raises(jdl.Error, match=r"is finished.*nothing would be trained with .*--fresh"):
        train(tmp_path, steps=2, accept=(name,))
    assert (result.folder / "run.json").read_bytes() == edited
    with open_run(result.folder, before, {}, accept=(name,)) as changes:
        changes.record(finished=False)
    assert changes.notes[0].startswith("Accepted: it continues")
    record = json.loads((result.folder / "run.json").read_text())
    assert record[name] == before[name]
    assert record["digest"] == before["digest"]
    assert list(record["segments"][0]["accepted"]) == [name]
    train(tmp_path, steps=2)  # it is the same run from here on


def test_a_folder_without_a_record_of_a_run_is_refused(result, tmp_path):
    edit(result.folder, lambda record: record.pop("config"))
    with pytest.raises(jdl.Error, match="not the record of a run"):
        train(tmp_path, steps=2)


@pytest.mark.parametrize("number", [2, None])
def test_a_run_of_an_older_format_is_refused_and_left_as_it_is(result, tmp_path, number):
    """Its record is read first: neither its fields nor its checkpoints need to make sense."""
    edit(result.folder, lambda record: record.update(format=number))
    edit(result.folder, lambda record: [record.pop(name) for name in ("data", "environment")])
    if number is None:
        edit(result.folder, lambda record: record.pop("format"))
    before = (result.folder / "run.json").read_text()
    message = rf"format {number or '2 or older'}, and this jdl reads format 3.*--fresh"
    for read in (lambda: train(tmp_path, steps=2), lambda: entry(result.folder)):
        with pytest.raises(jdl.Error, match=message):
            read()
    assert (result.folder / "run.json").read_text() == before
    assert train(tmp_path, steps=2, fresh=True).steps == 2


def test_a_checkpoint_of_an_older_format_is_refused_before_its_state_is_read(result, tmp_path):
    checkpoint = result.folder / "checkpoints" / "2"
    record = json.loads((checkpoint / "record" / "metadata").read_text())
    (checkpoint / "record" / "metadata").write_text(json.dumps({**record, "format": 2}))
    write_manifest(checkpoint)
    other = jdl.State(*(np.zeros(3) for _ in range(6)))  # not at all the form of the state
    checkpoints = Checkpoints(result.folder / "checkpoints", "max accuracy", read_only=True)
    with pytest.raises(jdl.Error, match=r"checkpoint of format 2, and this jdl reads format 3"):
        checkpoints.restore(jax.eval_shape(lambda state: state, other))
    checkpoints.close()


def test_every_damage_to_a_checkpoint_is_noticed_before_it_is_read(result, tmp_path):
    checkpoints = Checkpoints(result.folder / "checkpoints", "max accuracy", read_only=True)
    like = jax.eval_shape(lambda state: state, result.state)
    chance = random.Random(0)
    for trial in range(40):
        copy = tmp_path / "copy"
        shutil.copytree(result.folder / "checkpoints" / "2", copy)
        how = kill_storm.damaged(copy, chance)
        assert damage(copy), (trial, how)
        shutil.rmtree(copy)
    file = max(
        (result.folder / "checkpoints" / "2" / "state").rglob("*"),
        key=lambda path: path.stat().st_size,
    )
    content = file.read_bytes()
    file.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    with pytest.raises(jdl.Error, match=rf"{file.name} has changed since it was saved"):
        checkpoints.restore(like)
    file.write_bytes(content)
    assert state_digest(checkpoints.restore(like)[0]) == digest(result)
    checkpoints.close()


def test_another_environment_is_noted_and_recorded(tmp_path, monkeypatch, capsys):
    stopped_at(13, tmp_path, save_every=5)
    record = next(tmp_path.glob("*/*/seed0")) / "run.json"
    before = json.loads(record.read_text())
    stopped_at(23, tmp_path, save_every=5)
    assert json.loads(record.read_text()) == before  # nothing differs: nothing is said
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    capsys.readouterr()
    train(tmp_path, quiet=False)
    assert (
        "The bits may differ from here on, as run.json records: XLA_FLAGS: "
        in capsys.readouterr().out
    )
    segment = json.loads(record.read_text())["segments"][0]
    assert segment["environment"]["variables"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
    assert json.loads(record.read_text())["environment"] == before["environment"]


@pytest.fixture
def hangs_up():
    """SIGHUP ends this process, also where the tests are run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_lets_the_step_end_and_be_saved(tmp_path, hangs_up, number, code):
    whole = train(tmp_path / "whole")
    before = signal.getsignal(number)

    def send(step, state, metrics):
        if step == 20:
            os.kill(os.getpid(), number)

    with pytest.raises(jdl.Error, match="which is saved") as stopped:
        train(tmp_path / "stopped", hooks=[(20, send)], save_every=0)
    assert stopped.value.code == code
    assert signal.getsignal(number) == before
    resumed = train(tmp_path / "stopped", save_every=0)
    assert 0 < resumed.steps <= 40
    assert digest(resumed) == digest(whole)
    assert lines(resumed) == lines(whole)


def test_a_lost_terminal_sends_its_signal_twice_and_under_nohup_it_is_ignored(tmp_path, hangs_up):
    """Bash passes SIGHUP on to its jobs, and the kernel sends it when bash ends."""

    def hang_up(step, state, metrics):
        os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(PausedError, match="stopped by SIGHUP after step 2, which is saved"):
        train(tmp_path / "stopped", hooks=[(2, hang_up), (2, hang_up)])
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert train(tmp_path / "nohup", hooks=[(2, hang_up)], steps=4).steps == 4
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        ({"patience": 3}, {"valid": None}, "needs a validation set"),
        ({}, {"best": "max acuracy"}, "has accuracy, confusion/f1, confusion/precision"),
        ({}, {"best": "accuracy"}, "max METRIC"),
        ({"name": ""}, {}, "has no name"),
    ],
)
def test_runs_that_make_no_sense_are_refused_before_anything_is_written(
    tmp_path, fields, changes, message
):
    run = kitchen_sink.run(kitchen_sink.Config(**{"name": "kitchen_sink", **fields}))
    with pytest.raises(jdl.Error, match=message):
        jdl.fit(dataclasses.replace(run, **changes), jdl.Options(root=tmp_path))
    assert not list(tmp_path.iterdir())
