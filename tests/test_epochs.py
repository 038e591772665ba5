"""Epochs as steps: the same run as with those steps, from a command line and from Python.

Seen to fail: a digest that counts epochs nobody set, records without epochs that take those of the
script, a run whose steps are not its epochs, two contradicting flags, epochs of environments, a
shorter run that is not told, and one that is, though it differs in more, or is not finished.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import optax
import pytest

import jdl
from jdl.config import digest, from_json, to_json
from jdl.models.mlp import MLP
from jdl.store.checkpoints import state_digest
from jdl.store.record import read_record
from jdl.train.epochs import in_epochs, resolve_epochs
from jdl.train.preemption import PausedError


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "epochs"
    steps: int = 1_000
    lr: float = 1e-2


def run(c):
    data = jdl.data.arrays(x=np.arange(100.0).reshape(50, 2) / 100, y=np.arange(50) % 2)
    optimizer = optax.sgd(optax.linear_schedule(c.lr, 0.0, c.steps))
    learner = jdl.descent(jdl.objectives.classify(MLP(2, hidden=(4,))), optimizer)
    return jdl.Run(c, learner, data.shuffled(16, c.seed))


@pytest.mark.slow
def test_epochs_train_as_their_steps_do_and_are_recorded(tmp_path, capsys):
    c = jdl.epochs_to_steps(run, Config(epochs=1.5))
    assert (c.steps, c.epochs) == (6, 1.5)
    by_epochs = jdl.fit(run(c), jdl.Options(root=tmp_path))
    assert "from step 0 of 6 (1.5 epochs of 4 steps)" in capsys.readouterr().out
    by_steps = jdl.fit(run(Config(steps=6)), jdl.Options(root=tmp_path, quiet=True))
    assert state_digest(by_epochs.state) == state_digest(by_steps.state)
    record = read_record(by_epochs.folder)
    assert (record["config"]["steps"], record["config"]["epochs"]) == (6, 1.5)
    assert from_json(Config, record["config"]) == c
    assert "epochs" not in read_record(by_steps.folder)["config"]


@pytest.mark.slow
def test_a_new_run_is_told_of_a_finished_one_with_fewer_steps(tmp_path, capsys):
    def notes(**config):
        jdl.fit(run(Config(**config)), jdl.Options(root=tmp_path))
        return capsys.readouterr().out

    shorter = jdl.fit(run(Config(steps=1)), jdl.Options(root=tmp_path, quiet=True)).folder
    with pytest.raises(PausedError):
        jdl.fit(run(Config(steps=2)), jdl.Options(root=tmp_path, quiet=True, until=1))
    told = f"{shorter} is a finished run of this config with fewer steps"
    assert told in notes(steps=3)
    assert told not in notes(steps=3)  # it is resumed, and finished
    assert "fewer steps" not in notes(steps=3, lr=0.1) + notes(steps=3, seed=1)


def test_a_run_whose_steps_are_not_its_epochs_is_refused(tmp_path):
    with pytest.raises(jdl.Error, match=r"6 steps of this data, and steps=1,000: call c = jdl\."):
        jdl.fit(run(Config(epochs=1.5)), jdl.Options(root=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_command_line_has_epochs_or_steps():
    c = Config(epochs=2)
    assert resolve_epochs(run, c, ["--epochs", "2"]).steps == 8
    for argv in (["--steps", "9"], ["--steps=9"]):
        with pytest.raises(jdl.Error, match="--epochs 2 is 8 steps of this data, but --steps is 9"):
            resolve_epochs(run, replace(c, steps=9), argv)
    assert resolve_epochs(run, replace(c, steps=8), ["--steps", "8"]).steps == 8
    assert resolve_epochs(run, Config(epochs=0.01), []).steps == 1
    assert resolve_epochs(None, Config(), ["--steps", "1000"]) == Config()


@pytest.mark.parametrize("epochs", [-1, float("nan"), float("inf")])
def test_epochs_that_are_none_are_refused(epochs):
    with pytest.raises(jdl.Error, match="--epochs must be"):
        Config(epochs=epochs)


def test_what_nobody_set_does_not_change_a_config_s_digest():
    fields = {k: v for k, v in dataclasses.asdict(Config()).items() if k not in ("epochs", "seed")}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert digest(Config()) == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert digest(Config(epochs=2)) == digest(Config(epochs=2.0)) != digest(Config())
    later = dataclasses.make_dataclass(
        "Config", [("epochs", float, 5.0)], bases=(Config,), frozen=True
    )
    assert from_json(later, to_json(Config())).epochs == 0  # of before the script's default


def test_environments_have_no_epochs():
    data = jdl.data.episodes(4)
    assert in_epochs(10, data) == ""
    with pytest.raises(jdl.Error, match="come from an environment, without end: give --steps"):
        resolve_epochs(lambda c: SimpleNamespace(train=data), Config(epochs=2), [])
    own = jdl.data.arrays(x=np.zeros((6, 2)), episode=np.arange(6)).shuffled(2, 0)
    assert in_epochs(6, own) == " (2 epochs of 3 steps)"
