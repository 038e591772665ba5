"""However a training is saved, evaluated, logged, killed and resumed, its bits are the same.

Sequences of sessions are drawn at random. Seen to fail with the order of examples begun anew at a
resume, and with a best metric that an evaluation reset.
"""

import json
import tempfile
from pathlib import Path

import pytest
from harness import digest, lines, stopped_at, train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jdl
from jdl.train.preemption import PausedError

STEPS = 22
sessions = st.lists(
    st.fixed_dictionaries(
        {
            "save_every": st.integers(0, 6),
            "eval_every": st.integers(0, 6),
            "log_every": st.integers(1, 5),
            "keep": st.integers(1, 3),
            "killed": st.booleans(),
            "stop": st.integers(1, STEPS - 1),
        }
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), steps=STEPS, patience=50, check_every=4)


def saved_step(root):
    """The step of the newest whole checkpoint under `root`, 0 for none."""
    manifests = root.glob("*/*/seed0/checkpoints/*/manifest.json")
    return max((int(path.parent.name) for path in manifests), default=0)


def session(root, options):
    """One session of a training: broken off or paused at a step, unless it is behind it."""
    killed, step, start = options.pop("killed"), options.pop("stop"), saved_step(root)
    if step <= start < STEPS and not killed:
        with pytest.raises(jdl.Error, match=f"at step {start} already"):
            train(root, until=step, **options)
    elif step <= start:
        train(root, **options)
    elif killed:
        stopped_at(step, root, **options)
        assert saved_step(root) < step
    else:
        with pytest.raises(PausedError):
            train(root, until=step, **options)
        assert saved_step(root) == step


@pytest.mark.nightly
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=sessions)
def test_any_sequence_of_sessions_ends_in_the_same_bits(whole, drawn):
    with tempfile.TemporaryDirectory() as folder:
        root, fields = Path(folder), {"steps": STEPS, "patience": 50, "check_every": 4}
        for options in drawn:
            session(root, {**fields, **options})
        resumed = train(root, **fields)
        assert digest(resumed) == digest(whole)
        trace = (whole.folder / "trace.f32").read_bytes()
        assert (resumed.folder / "trace.f32").read_bytes() == trace
        expected = {(line["step"], line["split"]): line for line in map(json.loads, lines(whole))}
        for line in map(json.loads, lines(resumed)):
            assert expected.get((line["step"], line["split"]), line) == line
