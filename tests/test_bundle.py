"""A bundle: a run that is trained again elsewhere, to the bit, or the reason why it is not.

Seen to fail: a hash that is not compared, an environment that is not compared, a prepared dataset
of which only the opened file is taken, the script's own path in the record, a wheel without
metadata, hashes of some packages alone; pretrained weights that do not come along, ".." in a place,
hidden and .pth files that are passed over, $TFDS_DATA_DIR afterwards, --name=/path in the command,
Python by its last number, several processes, devices that the README leaves out.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jdl
import jdl.cli
from jdl.bundle import data, folder, repetition, wheel
from jdl.bundle.card import card
from jdl.bundle.data import Part, weights_parts, within
from jdl.bundle.requirements import locked_versions, requirements
from jdl.data.array_files import file_sha256
from jdl.inspect import compare
from jdl.models.mlp import MLP
from jdl.store.manifest import hash_file
from jdl.train.experiment import load

SCRIPT = '''"""Reads a table and a folder of images beneath the folder that it is called in."""

from dataclasses import dataclass

import numpy as np
import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 4
    table: str = "own/rows.csv"


def run(c):
    x, y = np.loadtxt(c.table, delimiter=",", unpack=True, dtype=np.float32)
    train = jdl.data.arrays(x=x[:, None], y=y.astype(np.int32)).shuffled(4, c.seed)
    images = jdl.data.image_folder("pictures", 4)
    model = jdl.pretrained(MLP(2, hidden=(4,)), jdl.weights.load("own/weights.safetensors"))
    learner = jdl.descent(jdl.objectives.classify(model), optax.sgd(0.1))
    assert len(images) == 2
    return jdl.Run(c, learner, train, best="min loss")
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that a run was trained in, and the run's."""
    here = tmp_path_factory.mktemp("here")
    (here / "own.py").write_text(SCRIPT)
    for place in ("own", "pictures/a", "pictures/b"):
        (here / place).mkdir(parents=True)
    rows = np.arange(16).reshape(8, 2) % 3 % 2
    np.savetxt(here / "own" / "rows.csv", rows, delimiter=",", fmt="%d")
    weights = MLP(2, hidden=(4,)).init(jax.random.key(0), np.zeros((1, 1), np.float32))
    jdl.weights.save(weights, here / "own" / "weights.safetensors")
    for name in "ab":
        Image.new("L", (4, 4), ord(name)).save(here / "pictures" / name / "0.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        _, run, config = load(here / "own.py")
        options = jdl.Options(quiet=True, log_every=1)
        result = jdl.fit(run(config(name="own")), options, here / "own.py")
        bundle = jdl.bundle.write(result.folder.absolute(), here / "bundles" / "own", anyway=True)
    return here, here / result.folder, bundle


@pytest.fixture
def moved(trained, tmp_path, monkeypatch):
    """A copy of the bundle, called in a folder that has nothing else."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained[2], tmp_path / "elsewhere"))


def edit(bundle, name, change):
    """Changes a file of a bundle, and its hash."""
    path = bundle / name
    path.write_text(change(path.read_text()))
    about = json.loads((bundle / folder.NAME).read_text())
    about["files"][name] = hash_file(path)
    (bundle / folder.NAME).write_text(json.dumps(about))


def edit_record(bundle, **changed):
    def change(text):
        record = json.loads(text)
        record["environment"] = {**record["environment"], **changed}
        return json.dumps(record)

    edit(bundle, "run/run.json", change)


@pytest.mark.slow
def test_a_bundle_repeats_elsewhere_to_the_bit(moved, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jdl", "repeat", str(moved)])
    jdl.cli.main()
    captured = capsys.readouterr()
    assert captured.out.endswith("The runs are equal, to the bit.\n")
    assert "4 of 4 compared, all equal" in captured.out
    assert f"this runs the code in {moved}" in captured.err


def test_a_bundle_has_all_that_it_takes_and_no_path_of_this_machine(trained):
    here, _, bundle = trained
    about = json.loads((bundle / folder.NAME).read_text())
    present = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert present == {*about["files"], folder.NAME}
    places = {name for name in present if name.startswith("files/")}
    assert places == {
        "files/own/rows.csv",
        "files/own/weights.safetensors",
        "files/pictures/a/0.png",
        "files/pictures/b/0.png",
    }
    assert "run/code/own.py" in present
    for name in present - {about["wheel"]}:
        assert str(here).encode() not in (bundle / name).read_bytes(), name
    readme = (bundle / "README.md").read_text()
    assert "weights own/weights.safetensors, 0.0 MB: in this folder" in readme
    assert "pip install -r requirements.txt" in readme
    assert "jdl repeat ." in readme


def test_what_differs_is_named_before_anything_is_trained(moved, monkeypatch):
    monkeypatch.setattr(compare, "repeat", lambda *_: pytest.fail("trained"))
    environment = json.loads((moved / "run" / "run.json").read_text())["environment"]
    versions = {**environment["versions"], "flax": "0.1"}
    for changed, said in (
        ({"versions": versions}, "flax: 0.1 in the bundle, "),
        ({"variables": {**environment["variables"], "XLA_FLAGS": "--fast"}}, "XLA_FLAGS: --fast"),
        ({"devices": {**environment["devices"], "kind": "TPU v9"}}, "device: TPU v9 in the bundle"),
        ({"versions": {**environment["versions"], "python": "3.9.1"}}, "python: 3.9 in the bundle"),
        ({"host": {**environment["host"], "instructions": "avx9"}}, "CPU instructions: avx9"),
        ({"settings": {**environment["settings"], "jax_enable_x64": True}}, "jax_enable_x64: True"),
    ):
        edit_record(moved, **changed)
        with pytest.raises(jdl.Error, match=said):
            jdl.bundle.repeat(moved)
        edit_record(moved, **environment)
    monkeypatch.setattr(repetition, "changed_files", lambda _: ["jdl/a.py", "jdl/b.py"])
    with pytest.raises(jdl.Error, match=r"jdl itself: jdl/a\.py and 1 more"):
        jdl.bundle.repeat(moved)


def test_changed_data_are_named_and_with_anyway_the_step(moved):
    edit(moved, "files/own/rows.csv", lambda text: text.replace("0", "1", 1))
    with pytest.raises(jdl.Error, match=r"data are not those.*train: \w+ in the bundle"):
        jdl.bundle.repeat(moved)
    comparison = jdl.bundle.repeat(moved, anyway=True, quiet=True)
    assert comparison.first_difference in (1, 2)
    assert any("repeats itself to the bit" in line for line in comparison.lines)
    shutil.rmtree(moved / "files")
    with pytest.raises(jdl.Error, match=r"files/own/rows\.csv is missing"):
        jdl.bundle.repeat(moved)


def test_a_damaged_or_hostile_bundle_runs_nothing(moved, monkeypatch):
    monkeypatch.setattr(repetition, "rebuild", lambda _: pytest.fail("ran"))
    about = json.loads((moved / folder.NAME).read_text())
    code = moved / "run" / "code" / "own.py"
    text = code.read_text()
    code.write_text(text.replace("0.1", "0.2"))
    with pytest.raises(jdl.Error, match=r"run/code/own\.py has changed"):
        jdl.bundle.repeat(moved)
    code.write_text(text)
    for changed, said in (
        ({**about, "format": 2}, "of format 2, and this jdl reads"),
        ({**about, "files": {}}, "does not name"),
        ({**about, "wheel": 3}, "does not describe a bundle"),
        ([], "does not describe a bundle"),
        ({**about, "files": {**about["files"], "../out": "0"}}, r"\.\./out is missing"),
    ):
        (moved / folder.NAME).write_text(json.dumps(changed))
        (moved.parent / "out").write_text("")
        with pytest.raises(jdl.Error, match=said):
            jdl.bundle.repeat(moved)


def test_what_cannot_be_repeated_is_refused(trained, tmp_path, monkeypatch):
    here, run, bundle = trained
    monkeypatch.chdir(here)
    with pytest.raises(jdl.Error, match="exists already"):
        jdl.bundle.write(run, bundle)
    ignored = shutil.ignore_patterns("checkpoints", "summary.json")
    changed = Path(shutil.copytree(run, tmp_path / "changed", ignore=ignored))
    with pytest.raises(jdl.Error, match="train it to its end, or bundle it --anyway"):
        jdl.bundle.write(changed, tmp_path / "to")
    path = changed / "run.json"
    record = json.loads(path.read_text())
    environment = record["environment"]
    versions = {**environment["versions"], "numpy": "1.0"}
    config = {**record["config"], "table": "/data/rows.csv"}
    for fields, said in (
        ({"segments": [{}]}, "resumed with changes"),
        ({"script": None}, "without a script"),
        ({"environment": {**environment, "host": {"processes": 2}}}, "by 2 processes"),
        ({"config": config}, "path of this machine, table = /data"),
        ({"environment": {**record["environment"], "versions": versions}}, "numpy: 1.0 when it"),
        ({"data": {"train": "other"}}, "data are not those.*train: other when it was trained"),
    ):
        path.write_text(json.dumps({**record, **fields}))
        with pytest.raises(jdl.Error, match=said):
            jdl.bundle.write(changed, tmp_path / "to", anyway=True)
    assert not (tmp_path / "to").exists()


def test_the_lock_has_the_installed_versions_and_all_hashes_or_none(tmp_path, monkeypatch):
    versions = locked_versions({"sklearn"})
    assert versions["scikit-learn"] == version("scikit-learn")
    assert {"jax", "jaxlib", "numpy", "scipy", "joblib"} <= versions.keys()
    assert "jdl" not in versions
    assert "ruff" not in versions  # of an extra that is not asked for
    file = tmp_path / "jdl-1-py3-none-any.whl"
    file.write_bytes(b"")
    for known, hashed in (({"a==1": ("sha256:0",)}, 2), ({}, 0)):
        monkeypatch.setattr("jdl.bundle.requirements._known_hashes", lambda known=known: known)
        text = requirements({"a": "1"}, file)
        assert text.count("--hash=") == hashed
        assert "a==1" in text
        assert f"./{file.name}" in text


@pytest.mark.slow
def test_the_wheel_is_jdl_as_it_is_installed(tmp_path):
    path = wheel.write_wheel(tmp_path)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", tmp_path / "to", path], check=True, capture_output=True)
    installed = (tmp_path / "to" / "jdl" / "bundle" / "wheel.py").read_bytes()
    assert installed == Path(wheel.__file__).read_bytes()
    assert (tmp_path / "to" / "bin" / "jdl").is_file()
    assert wheel.changed_files(path) == []
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("jdl/more.py", "")
    assert wheel.changed_files(path) == ["jdl/more.py"]


def test_data_are_found_where_they_are_fetched_and_prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    paths = [
        "cache/fetched/cora/cora_nodes.parquet.gzip",
        "cache/decoded/x.npy",
        "tfds/mnist/3.0.1/dataset_info.json",
        "tfds/mnist/3.0.1/mnist.array_record",
        "runs/a/run.json",
        "own.txt",
        "own.pth",
        ".own/rows.csv",
        f"../{tmp_path.name}.csv",
        "own.py",
    ]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "cached.h5").write_text("read by a library")
    file_sha256(tmp_path / "cached.h5")
    with data.watch_files() as found:
        for path in [*paths[:3], *paths[4:]]:
            Path(path).read_text()
        Path("written.txt").write_text("")
        file_sha256(tmp_path / "cached.h5")
    parts, outside = data.data_parts(found, tmp_path / "runs" / "a")
    assert {part.how: sorted(part.files) for part in parts} == {
        "jdl data fetch cora": ["fetched/cora/cora_nodes.parquet.gzip"],
        "jdl data prepare mnist": [
            "prepared/mnist/3.0.1/dataset_info.json",
            "prepared/mnist/3.0.1/mnist.array_record",
        ],
        "put them into files/": ["files/cached.h5", "files/own.pth", "files/own.txt"],
    }
    assert sorted(outside) == [tmp_path / ".own/rows.csv", tmp_path.with_suffix(".csv")]


def test_pretrained_weights_that_do_not_come_along_are_named(trained, tmp_path, monkeypatch):
    here, run, _ = trained
    monkeypatch.chdir(here)
    (tmp_path / "far.npz").write_bytes(b"far")
    record = json.loads((run / "run.json").read_text())
    sources = (f"run:{run.relative_to(here)}", "run:none", "hf:a/b@c", str(tmp_path / "far.npz"))
    sources = (*sources, str(here / "own/weights.safetensors"))  # which the code reads there
    parts = weights_parts([{"source": name, "sha256": "0a"} for name in sources])
    assert f"files/{run.relative_to(here)}/run.json" in parts[0].files
    folder._copy_data(parts, tmp_path / "to")
    copied = tmp_path / "to" / "files" / run.relative_to(here) / "run.json"
    assert json.loads(copied.read_text())["script"] == "own.py"
    assert [part.name for part in parts[1:]] == [
        f"pretrained weights {name}"
        for name in ("run:none", "hf:a/b@c", "far.npz", "weights.safetensors")
    ]
    assert not any(part.files for part in parts[1:])
    assert within(parts[1:], 10) == []
    about = {"wheel": "w", "outside": [], "data": [folder._described(p, False) for p in parts]}
    devices = {"kind": "cpu", "local": 4}
    record["environment"] |= {"devices": devices, "variables": {}}
    text = card(record, about, run)
    assert "- pretrained weights hf:a/b@c: not in this folder: SHA-256 0a\n" in text
    assert "SHA-256 0a, put it into files/" in text
    assert "\nJAX_NUM_CPU_DEVICES=4 jdl repeat ." in text
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    record["environment"] |= {"variables": flags}
    assert "JAX_NUM" not in card(record, about, run)


def test_no_path_of_this_machine_and_none_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder._relative(f"run:{tmp_path}/a") == "run:a"
    words = ["jdl", "--root", str(tmp_path / "a/b"), f"--root={tmp_path}/a/b", "--x=1=2"]
    expected = ["jdl", "--root", "a/b", "--root=a/b", "--x=1=2"]
    assert [folder._without_path(word) for word in words] == expected
    (tmp_path / "x").write_text("")
    with pytest.raises(jdl.Error, match="outside of the bundle"):
        folder._copy_data([Part("a", {"files/../../x": tmp_path / "x"}, "")], tmp_path / "to")
    (tmp_path / "prepared").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", "mine")
    with repetition._placed_data(tmp_path):
        assert os.environ["TFDS_DATA_DIR"] == str(tmp_path / "prepared")
    assert os.environ["TFDS_DATA_DIR"] == "mine"


def test_parts_are_taken_up_to_a_size(tmp_path):
    def part(name, size, folder):
        path = tmp_path / name
        path.write_bytes(bytes(size))
        return Part(name, {f"{folder}/{name}": path}, name)

    own, small = part("files", 6, "files"), part("small", 2, "fetched")
    large, prepared = part("large", 9, "prepared"), part("prepared", 1, "prepared")
    assert within([small, own, large], 10) == [own, small]
    assert within([own, prepared], 10) == [own, prepared]
    assert within([own, prepared, large], 10) == [own]  # prepared ones: all or none
    assert within([own], 5) == []
