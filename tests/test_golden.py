"""Golden trajectories: the losses and the state of a few steps of every family, to the bit, as they were once written.

They hold for one Python, one jax and one kind of processor, for which XLA compiles: each has a file of its own, which
`scripts/golden` writes. Seen to fail with the forget gate of LSTMs closed at the start.
Between two files the numbers differ by rounding alone.
"""

import hashlib
import json
import os
import platform
import re
import sys
from itertools import combinations
from pathlib import Path

import jax
import optax
import pytest
from model_table import TABLE, UNSUPERVISED

import jdl
from jdl.store.checkpoints import state_digest
from jdl.types import State

STEPS = 3
WRITE = bool(os.environ.get("JDL_WRITE_GOLDEN"))


def processor():
    """The name of what XLA compiles for."""
    device = jax.devices()[0].device_kind
    if device != "cpu":
        return device
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = sorted(
        {line for line in lines if re.match("model name|cpu family|model\t|stepping|flags", line)}
    )
    name = next(
        (line.partition(":")[2] for line in told if line.startswith("model name")),
        platform.processor(),
    )
    return f"cpu {name} {hashlib.sha256(''.join(told).encode()).hexdigest()[:6]}"


def path():
    versions = (
        f"python{sys.version_info[0]}.{sys.version_info[1]} jax{jax.__version__} {processor()}"
    )
    return (
        Path(__file__).parent
        / "golden"
        / f"{re.sub('[^a-z0-9.]+', '-', versions.lower()).strip('-')}.json"
    )


@pytest.fixture(scope="module")
def golden():
    if WRITE:
        found = {}
        yield found
        lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
        path().write_text("{\n" + ",\n".join(lines) + "\n}\n")
    elif path().is_file():
        yield json.loads(path().read_text())
    else:
        pytest.skip(
            f"no {path().name} in tests/golden: `scripts/golden` writes it, for this machine and these versions"
        )


@pytest.mark.parametrize("row", TABLE + UNSUPERVISED, ids=lambda row: row.name)
def test_every_family_goes_the_way_that_it_went(golden, row):
    learner = jdl.descent(row.objective(row.model), optax.adamw(row.rate))
    batch, step = row.batch(), jax.jit(learner.step)
    state: State = jax.jit(learner.init)(jax.random.key(0), batch)
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()).hex())
    now = {"losses": losses, "state": state_digest(state)[:16]}
    if WRITE:
        golden[row.name] = now
    if row.name not in golden:
        pytest.skip(f"{path().name} is older than {row.name}: `scripts/golden` writes it anew")
    then = golden[row.name]
    differ = [n for n, (a, b) in enumerate(zip(then["losses"], losses, strict=True), 1) if a != b]
    told = "its losses are the same, and its last state is another"
    if differ:
        losses = [float.fromhex(both["losses"][differ[0] - 1]) for both in (then, now)]
        told = f"its loss was {losses[0]:.9g} in step {differ[0]}, and is {losses[1]:.9g}"
    assert now == then, (
        f"{row.name} goes another way than it went: {told}. If the change was meant, run scripts/golden under each "
        "Python, look at what differs, and commit it with the reason; if not, it changes the numbers of every run."
    )


def test_machines_and_versions_differ_by_rounding_alone():
    files = [json.loads(file.read_text()) for file in sorted(path().parent.glob("*.json"))]
    for a, b in combinations(files, 2):
        for name in a.keys() & b.keys():
            losses = [[float.fromhex(loss) for loss in file[name]["losses"]] for file in (a, b)]
            scale = max(map(abs, losses[0]))  # a game's loss is a difference, and may come near 0
            assert losses[0] == pytest.approx(losses[1], abs=1e-6 * scale), name
