"""How tests train: in this process, or in one of its own that can be killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import kitchen_sink
import pytest

import jdl
from jdl.store.checkpoints import state_digest
from jdl.train.fit import _Trainer

SCRIPT = Path(kitchen_sink.__file__)


def train(root, **fields):
    """Trains `kitchen_sink` here; options and config fields by name."""
    names = set(jdl.Options.__dataclass_fields__)
    options = {name: value for name, value in fields.items() if name in names}
    config = {
        "name": "kitchen_sink",
        **{name: value for name, value in fields.items() if name not in names},
    }
    run = kitchen_sink.run(kitchen_sink.Config(**config))
    return jdl.fit(
        run, jdl.Options(root=root, **{"log_every": 1, "quiet": True, **options}), SCRIPT
    )


def stopped_at(step, root, **fields):
    """Trains until that step is settled, and breaks off without a word, as a kill does."""
    settle = _Trainer.settle

    def broken(self, settled, metrics):
        settle(self, settled, metrics)
        if settled == step:
            raise KeyboardInterrupt

    with patch.object(_Trainer, "settle", broken), pytest.raises(KeyboardInterrupt):
        train(root, **fields)


def digest(result):
    return state_digest(result.state)


def lines(result_or_folder):
    """The metrics file, to the byte."""
    return (
        (getattr(result_or_folder, "folder", result_or_folder) / "metrics.jsonl")
        .read_text()
        .splitlines()
    )


def command(root, *flags, script=SCRIPT):
    return [sys.executable, str(script), "--root", str(root), "--log-every", "1", *map(str, flags)]


def spawn(root, *flags, script=SCRIPT, processes=0, devices=None):
    """A training in a process of its own, on one device; or in several processes, with some devices each."""
    words = command(root, *flags, script=script)
    return subprocess.Popen(
        ["jdl", "launch", str(processes), *words[1:]] if processes else words,
        env={
            **os.environ,
            "XLA_FLAGS": "",
            **({"JAX_NUM_CPU_DEVICES": str(devices)} if devices else {}),
        },
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
    found = list(Path(root).glob("*/*/seed*/run.json"))
    assert len(found) == 1, found
    return found[0].parent


def kill_at(root, step, *flags, script=SCRIPT):
    """Trains until the log has `step`, then SIGKILL; whether the training was still under way."""
    process = spawn(root, *flags, script=script)
    deadline = time.time() + 300
    while process.poll() is None and time.time() < deadline:
        if any(
            len(path.read_bytes().splitlines()) >= step
            for path in Path(root).glob("*/*/seed*/metrics.jsonl")
        ):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL
