"""How tests train: in this process, or in one of its own that can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import kitchen_sink
import pytest

import jdl
from jdl.inspect.restore import restore
from jdl.store.checkpoints import state_digest
from jdl.store.record import FORMAT

SCRIPT = Path(kitchen_sink.__file__)
OFTEN = {"log_every": 1, "eval_every": 20, "save_every": 20}  # of 60 steps


def train(root, hooks=(), **fields):
    """Trains `kitchen_sink` here; options and config fields by name."""
    names = set(jdl.Options.__dataclass_fields__)
    options = {name: value for name, value in fields.items() if name in names}
    config = {name: value for name, value in fields.items() if name not in names}
    run = kitchen_sink.run(kitchen_sink.Config(**{"name": "kitchen_sink", **config}))
    options = jdl.Options(root=root, **{**OFTEN, "quiet": True, **options})
    return jdl.fit(replace(run, hooks=hooks), options, SCRIPT)


class Killed(BaseException):
    """What no part of jdl catches."""


def stopped_at(step, root, **fields):
    """Trains until the numbers of that step are fetched, and breaks off as a kill does.

    By a hook, which is called before the step is saved.
    """

    def break_off(at, state, metrics):
        if at == step:
            raise Killed

    with pytest.raises(Killed):
        train(root, hooks=[(step, break_off)], **fields)


def digest(result_or_folder):
    """The SHA-256 of the state of a training's result, or of a folder's newest checkpoint."""
    if isinstance(result_or_folder, Path):
        return state_digest(restore(result_or_folder).state)
    return state_digest(result_or_folder.state)


def lines(result_or_folder):
    """The metrics file, to the byte."""
    folder = getattr(result_or_folder, "folder", result_or_folder)
    return (folder / "metrics.jsonl").read_text().splitlines()


def command(root, *flags, script=SCRIPT):
    often = [f"--{name.replace('_', '-')}={every}" for name, every in OFTEN.items()]
    return [sys.executable, str(script), "--root", str(root), *often, *map(str, flags)]


def spawn(root, *flags, script=SCRIPT, processes=0, devices=None, **environment):
    """A training in a process of its own, on one device; or in several, with some devices each."""
    words = command(root, *flags, script=script)
    given = {"XLA_FLAGS": "", **environment}
    given |= {"JAX_NUM_CPU_DEVICES": str(devices)} if devices else {}
    return subprocess.Popen(
        ["jdl", "launch", str(processes), *words[1:]] if processes else words,
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Waits for the end of a training; its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def folder_of(root):
    folders = [path.parent for path in Path(root).glob("*/*/seed*/run.json")]
    assert len(folders) == 1, folders
    return folders[0]


def kill_at(root, step, *flags, script=SCRIPT):
    """Trains until the log has `step`, then SIGKILL; whether the training was still under way."""
    process = spawn(root, *flags, script=script)
    deadline = time.time() + 300
    while process.poll() is None and time.time() < deadline:
        logs = Path(root).glob("*/*/seed*/metrics.jsonl")
        if any(len(path.read_bytes().splitlines()) >= step for path in logs):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def write_run(root, name, seed, accuracy, digest="d1", finished=True, record=None, **config):
    """The folder of a run that was trained elsewhere: its record, and what it reached."""
    folder = root / name / digest / f"seed{seed}"
    folder.mkdir(parents=True)
    whole = {"format": FORMAT, "digest": digest, "seed": seed, "best": "max accuracy"}
    whole |= {"config": {"name": name, "steps": 5, **config}, "data": {"test": "d"}}
    whole |= {"code": {}, "environment": {}, "options": {}, **(record or {})}
    (folder / "run.json").write_text(json.dumps(whole))
    if finished:
        line = {"step": 5, "split": "test", "loss": 1 - accuracy, "accuracy": accuracy}
        (folder / "metrics.jsonl").write_text(f"{json.dumps(line)}\n")
        (folder / "summary.json").write_text("{}")
    return folder
