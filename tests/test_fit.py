"""The loop's other promises: what is kept, when it stops, what it refuses."""

import dataclasses
import json
import math
import re

import everything
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trained import digest, lines, train

import jdl
from jdl.runs.checkpoints import Checkpoints, state_digest
from jdl.runs.folder import opened
from jdl.runs.summary import summarise


def entries(result, split):
    return [line for line in map(json.loads, lines(result)) if line["split"] == split]


def test_the_latest_and_the_best_checkpoints_are_kept(tmp_path):
    result = train(tmp_path, eval_every=5, save_every=5, keep=2)
    kept = sorted(int(path.name) for path in (result.folder / "checkpoints").iterdir() if path.name.isdigit())
    by_step = {line["step"]: line["accuracy"] for line in entries(result, "valid")}
    best = max(by_step.values())
    assert {55, 60} <= set(kept)
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


def test_a_finished_run_is_only_evaluated_again(tmp_path):
    first = train(tmp_path, steps=10)
    before = lines(first)
    again = train(tmp_path, steps=10)
    assert again.steps == 0
    assert lines(again) == before
    assert again.metrics["test"]["accuracy"].value() == first.metrics["test"]["accuracy"].value()


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
    with pytest.raises(jdl.Error, match=r"The param_norm of step 13 is inf.*the checkpoint of step 12 is kept"):
        train(tmp_path, explode_at=12, save_every=1)
    folder = next(tmp_path.glob("*/*/seed0"))
    checkpoints = Checkpoints(folder / "checkpoints", "max accuracy")
    run = everything.run(everything.Config(name="everything", explode_at=12))
    like = jax.eval_shape(run.learner.init, jax.random.key(0), run.train[0])
    state, _ = checkpoints.restore(like)
    checkpoints.close()
    assert int(state.step) == checkpoints.latest() == 12
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_what_is_on_disk(tmp_path):
    result = train(tmp_path, steps=10)
    record = json.loads((result.folder / "run.json").read_text())
    assert record["config"]["lr"] == 1e-2
    assert result.folder.relative_to(tmp_path).parts == ("everything", record["digest"], "seed0")
    assert set(record["data"]) == {"train", "valid", "test"}
    assert record["environment"]["devices"]["kind"] == "cpu"
    assert record["environment"]["versions"]["jax"]
    train_lines = entries(result, "train")
    assert [line["step"] for line in train_lines] == list(range(1, 11))
    assert {"loss", "accuracy", "grad_norm", "update_norm", "param_norm"} <= set(train_lines[0])
    assert entries(result, "test")[-1]["step"] == 10
    text = summarise(result)
    assert "waited" in text
    assert (result.folder / "figures" / "test_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert math.isfinite(json.loads((result.folder / "summary.json").read_text())["metrics"]["test"]["loss"])
    events = EventAccumulator(str(result.folder))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    assert logged == {line["step"]: np.float32(line["loss"]) for line in train_lines}


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    result = train(tmp_path, steps=2)
    with opened(result.folder, json.loads((result.folder / "run.json").read_text()), False):  # noqa: SIM117
        with pytest.raises(jdl.Error, match="being trained already, by process"):
            train(tmp_path, steps=2)


def edit(folder, change):
    path = folder / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["config"].update(lr=5.0), "another config .lr: 5.0 there, 0.01 here"),
        (lambda record: record.update(best="min loss"), 'judged by "min loss"'),
        (lambda record: record["data"].update(train="f00"), "other data .fingerprints train: f00 there"),
        (lambda record: record.pop("config"), "not the record of a run"),
    ],
)
def test_a_folder_with_another_run_is_refused_with_the_difference(tmp_path, change, message):
    result = train(tmp_path, steps=2)
    edit(result.folder, change)
    with pytest.raises(jdl.Error, match=message):
        train(tmp_path, steps=2)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    """Damage is refused, or it lay in bytes that the state is not made of: a wrong state is never loaded."""
    result = train(tmp_path, steps=2)
    checkpoints = Checkpoints(result.folder / "checkpoints", "max accuracy", read_only=True)
    like = jax.eval_shape(lambda state: state, result.state)
    files = [p for p in (result.folder / "checkpoints" / "2" / "state").rglob("*") if p.is_file() and "d" in p.parts]
    refused = []
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 6)):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            try:
                assert state_digest(checkpoints.restore(like)[0]) == digest(result)
            except jdl.Error as error:
                assert re.search(r"damaged|cannot be restored", str(error))  # noqa: PT017
                refused.append("is damaged" in str(error))
        path.write_bytes(whole)
    assert state_digest(checkpoints.restore(like)[0]) == digest(result)
    checkpoints.close()
    assert any(refused), "no damage was found by the sums: Orbax would have loaded it"


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        ({"patience": 3}, {"valid": None}, "needs a validation set"),
        ({}, {"best": "max acuracy"}, "has accuracy, confusion/f1, confusion/precision"),
        ({}, {"best": "accuracy"}, "max METRIC"),
        ({"name": ""}, {}, "has no name"),
    ],
)
def test_runs_that_make_no_sense_are_refused_before_anything_is_written(tmp_path, fields, changes, message):
    run = everything.run(everything.Config(**{"name": "everything", **fields}))
    with pytest.raises(jdl.Error, match=message):
        jdl.fit(dataclasses.replace(run, **changes), jdl.Options(root=tmp_path))
    assert not list(tmp_path.iterdir())
