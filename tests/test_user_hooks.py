"""What hooks return is logged: numbers and pictures, once a step, also after a restart.

Seen to fail: with a line of its own for each hook (the second of a step was dropped); with "hooks"
taken for a split that was evaluated on; with what is not logged told at each step, or of the first
hook alone.
"""

import json
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from harness import digest, lines, stopped_at, train
from PIL import Image

import jdl
from jdl.store import catalog, log

PICTURE = np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)


def numbers(step, state, metrics):
    return {"twice": jnp.bfloat16(2 * step), "loss": metrics["loss"], "nan": np.float32(np.nan)}


def picture(step, state, metrics):
    return {"ramp": PICTURE + np.uint8(step), "gray": PICTURE[..., 0]}


HOOKS = [(10, numbers), (20, picture), (20, lambda *_: {"more": True}), (7, lambda *_: None)]


def of_hooks(folder):
    return [line for line in log.read(folder) if line["split"] == "hooks"]


@pytest.fixture(scope="module")
def hooked(tmp_path_factory):
    return train(tmp_path_factory.mktemp("hooked"), hooks=HOOKS, log_every=10, track=("csv",))


def test_numbers_are_logged(hooked):
    found = of_hooks(hooked.folder)
    assert [line["step"] for line in found] == [10, 20, 30, 40, 50, 60]
    assert [line["twice"] for line in found] == [20, 40, 60, 80, 100, 120]
    assert [line.get("more") for line in found] == [None, 1.0] * 3
    assert {line["nan"] for line in found} == {None}
    logged = {line["step"]: line for line in log.read(hooked.folder) if line["split"] == "train"}
    assert all(line["loss"] == pytest.approx(logged[line["step"]]["loss"]) for line in found)
    rows = (hooked.folder / "metrics.csv").read_text().splitlines()
    assert "60,hooks,twice,120.0" in rows


def test_pictures_are_files(hooked):
    names = sorted(p.relative_to(hooked.folder).as_posix() for p in hooked.folder.glob("p*/*/*"))
    assert names == [
        f"pictures/{name}/{step}.png" for name in ("gray", "ramp") for step in (20, 40, 60)
    ]
    with Image.open(hooked.folder / "pictures/ramp/40.png") as image:
        np.testing.assert_array_equal(np.asarray(image), PICTURE + np.uint8(40))


def test_they_change_nothing_and_are_no_split_of_the_evaluation(hooked, tmp_path):
    plain = train(tmp_path, log_every=10)
    assert digest(hooked) == digest(plain)
    assert [x for x in lines(hooked) if json.loads(x)["split"] != "hooks"] == lines(plain)
    assert catalog.choosing_split(["hooks", "train", "test"]) == "test"


def test_after_a_restart_each_step_is_there_once(hooked, tmp_path):
    stopped_at(30, tmp_path, log_every=10)
    resumed = train(tmp_path, hooks=HOOKS, log_every=10)
    assert of_hooks(resumed.folder) == [x for x in of_hooks(hooked.folder) if x["step"] > 20]
    again = train(tmp_path, hooks=HOOKS, log_every=10)
    assert lines(again) == lines(resumed)
    assert all(a["step"] < b["step"] for a, b in pairwise(of_hooks(again.folder)))


WRONG = {
    "a text": ({"note": "good"}, "'note', an array"),
    "floats as a picture": ({"p": np.zeros((3, 3))}, "as bytes"),
    "several numbers": ({"p": np.zeros(3, np.uint8)}, r"\(H, W\)"),
    "a path": ({"../../p": 1.0}, "take a name of letters"),
    "a field of the log": ({"step": 1.0}, "other than step and split"),
    "the name of another": ({"twice": 1.0}, "Hooks 1 and 2 of .* both return 'twice'"),
    "a verdict": (True, "returned a bool, and hooks change nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_logged_is_told(case, tmp_path):
    returned, words = WRONG[case]
    with pytest.raises(jdl.Error, match=words):
        train(tmp_path, hooks=[(2, numbers), (3, lambda *_: returned)])  # not due at one step


def test_a_number_without_a_name_is_told_once(tmp_path, capsys):
    """Of each hook that returns one."""
    train(tmp_path, hooks=[(1, lambda *_: 0.5), (1, lambda *_: "1")], quiet=False)
    out = capsys.readouterr().out
    assert out.count("hook 1 returned a float, which is not logged") == 1
    assert out.count("hook 2 returned a str, which is not logged") == 1
