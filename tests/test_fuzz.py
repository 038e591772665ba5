"""Malformed files end in a message: some cases here, and more by `scripts/fuzz`.

Seen to fail with damaged metrics of a checkpoint, a record without its config, an npz that is no
archive, and JSON nested 50,000 deep: each gave a traceback before it gave a message.
"""

import json
import os
import pickle
import zipfile

import fuzz
import numpy as np
import pytest

import jdl
from jdl.inspect.inputs import read_inputs


@pytest.mark.parametrize(
    ("count", "seed"), [(12, 5), pytest.param(300, 1, marks=pytest.mark.nightly)]
)
def test_whatever_a_file_holds_a_verb_ends_with_a_message(count, seed):
    wrong = fuzz.storm(count, seed)
    assert not wrong, "\n".join(wrong)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_an_archive_that_holds_a_pickle_runs_no_code(tmp_path):
    bomb = Bomb(tmp_path / "ran")
    pickle.loads(pickle.dumps(Bomb(tmp_path / "would")))
    assert (tmp_path / "would").is_dir()  # the bomb is one
    np.savez(tmp_path / "array.npz", x=np.asarray([bomb], dtype=object))
    with zipfile.ZipFile(tmp_path / "plain.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(bomb))
    (tmp_path / "only.npz").write_bytes(pickle.dumps(bomb))
    for name in ("array", "plain", "only"):
        with pytest.raises(jdl.Error, match="cannot be read as an npz file"):
            read_inputs([tmp_path / f"{name}.npz"], {"x": np.zeros((1, 2))})
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"), [("pretrained", "no list"), ("pretrained", [{"names": {}}]), ("best", "?")]
)
def test_a_record_with_a_wrong_field_is_refused_where_its_run_is_resumed(tmp_path, field, value):
    record = fuzz.train(tmp_path, steps=1, quiet=True).folder / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), field: value}))
    with pytest.raises(jdl.Error, match=f"its {field} is missing or wrong"):
        fuzz.train(tmp_path, steps=1, quiet=True)
    record.write_text('"no object"')
    with pytest.raises(jdl.Error, match="is not the record of a run"):
        fuzz.train(tmp_path, steps=1, quiet=True)


@pytest.mark.slow
def test_a_broken_run_hides_no_other(tmp_path):
    whole = fuzz.train(tmp_path, steps=1, quiet=True).folder
    broken = whole.parents[1] / "abc" / "seed0"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{}")
    code, output = fuzz.ended(["runs", "--root", str(tmp_path)])
    assert code == 2
    assert whole.parent.name in output
    assert f"{broken}/run.json is not the record of a run" in output
