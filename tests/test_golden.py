"""Golden trajectories: the losses and the final state of a few steps of every family.

They are as they were once written: to the bit where a file in tests/golden was written with this
Python, this jax and this processor, for which XLA compiles; elsewhere the losses to 1e-6 of the
nearest file: rounding differs there, and nothing else may. So do those that were added on another
processor, which have losses alone. `scripts/golden` writes the file of the machine that it runs on,
`scripts/golden -k NAME` one row of it. Seen to fail, both ways, with the forget gate of LSTMs
closed at the start.
"""

import hashlib
import json
import os
import platform
import re
import sys
from itertools import takewhile
from operator import eq
from pathlib import Path

import jax
import optax
import pytest
from model_rows import by_tier
from model_table import TABLE
from unsupervised_table import UNSUPERVISED
from xla_flags import IN_PIECES

import jdl
from jdl.store.checkpoints import state_digest

STEPS = 3
BOUND = 1e-6  # of the largest loss, between processors and versions; 3e-7 was measured
WRITE = bool(os.environ.get("JDL_WRITE_GOLDEN"))
FOLDER = Path(__file__).parent / "golden"


def processor():
    """The name of what XLA compiles for."""
    device = jax.devices()[0].device_kind
    if device != "cpu":
        return device
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    pattern = "model name|cpu family|model\t|stepping|flags"
    relevant = sorted({line for line in lines if re.match(pattern, line)})
    names = (line.partition(":")[2] for line in relevant if line.startswith("model name"))
    name = next(names, platform.processor())
    return f"cpu {name} {hashlib.sha256(''.join(relevant).encode()).hexdigest()[:6]}"


def own_file():
    """The file of this Python, jax and processor, which need not exist."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    name = f"{python} jax{jax.__version__} {processor()}"
    return FOLDER / f"{re.sub('[^a-z0-9.]+', '-', name.lower()).strip('-')}.json"


def nearest_file():
    """The file whose name begins most like this machine's, so of the same versions if any is."""
    own = own_file().name
    files = sorted(FOLDER.glob("*.json"))
    return max(files, key=lambda file: sum(takewhile(bool, map(eq, file.name, own))))


def trajectory(row):
    """The losses of a few steps, and the digest of the last state."""
    learner = row.wrap(jdl.descent(row.objective(row.model), optax.adamw(row.rate)))
    batch, step = row.batch(), jax.jit(learner.step, compiler_options=IN_PIECES)
    init = jax.jit(learner.init, compiler_options=IN_PIECES)
    state, losses = init(jax.random.key(0), batch), []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()))
    return {"losses": [loss.hex() for loss in losses], "state": state_digest(state)[:16]}


@pytest.fixture(scope="module")
def golden():
    """What was written, and whether it was written by such a machine."""
    if WRITE:  # those of the table's rows that run; the others stay as they are
        written = json.loads(own_file().read_text()) if own_file().is_file() else {}
        yield written, True
        names = sorted(written.keys() & {row.name for row in TABLE + UNSUPERVISED})
        lines = [f"{json.dumps(name)}: {json.dumps(written[name])}" for name in names]
        own_file().write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        exact = own_file().is_file()
        yield json.loads((own_file() if exact else nearest_file()).read_text()), exact


@pytest.mark.parametrize("row", by_tier(TABLE + UNSUPERVISED))
def test_every_family_goes_the_way_that_it_went(golden, row):
    files, exact = golden
    now = trajectory(row)
    if WRITE:
        files[row.name] = now
    then = files[row.name]
    before, after = ([float.fromhex(loss) for loss in both["losses"]] for both in (then, now))
    advice = (
        f"{row.name} goes another way than it went. If the change was meant, run scripts/golden "
        "under each Python, look at what differs, and commit it with the reason; if not, it "
        "changes the numbers of every run."
    )
    if exact and "state" in then:
        assert now == then, advice
    scale = max(map(abs, before))  # a GAN's loss is a difference, and may come near 0
    assert after == pytest.approx(before, abs=BOUND * scale), advice
