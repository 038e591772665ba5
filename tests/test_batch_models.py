"""Batch inference by runs and by exported models: the same answers, all devices, little memory.

Seen to fail: a function that is compiled for each piece, one device for all batches, an exported
model without lengths.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from harness import train

import jdl
import jdl.cli
from jdl.export.model import ExportedModel, load_exported
from jdl.inspect.predict import predict
from jdl.objectives.predict import map_rows


def test_devices_take_the_batches_in_turn():
    data = [{"x": np.full(2, n)} for n in range(5)]
    copies = [{"w": np.full((), 10 * k)} for k in range(3)]
    found = map_rows(lambda v, b: {"y": b["x"] + v["w"]}, {}, data, replicas=copies)
    assert found["y"].tolist() == [0, 0, 11, 11, 22, 22, 3, 3, 14, 14]
    assert map_rows(lambda v, b: {"y": b["x"]}, {}, data[:1], replicas=copies)["y"].tolist() == [
        0,
        0,
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of digits, exported, and files of 10 digits."""
    root = tmp_path_factory.mktemp("batch")
    run = train(root / "runs", steps=4).folder
    exported = jdl.export.export(run, root / "exported")
    x = np.asarray(jdl.data.digits()[1].columns["x"][:10])
    flat = x.reshape(10, -1)
    np.save(root / "x.npy", x)
    np.savez(root / "x.npz", x=x)
    with (root / "x.csv").open("w") as file:
        names = [f"pixel{n}" for n in range(64)]
        csv.writer(file).writerows([names, *flat.tolist()])
    (root / "x.jsonl").write_text("".join(f"{json.dumps({'x': row.tolist()})}\n" for row in x))
    table = pyarrow.table({name: flat[:, n] for n, name in enumerate(names)})
    pyarrow.parquet.write_table(table, root / "x.parquet")
    return root, run, exported


def call(*arguments):
    with patch.object(sys, "argv", ["jdl", *map(str, arguments)]):
        jdl.cli.main()


@pytest.mark.slow
def test_a_run_and_what_was_exported_answer_the_same(trained, tmp_path, capsys):
    root, run, exported = trained
    expected = predict(jdl.restore(run), [root / "x.npz"])
    call("predict", run, root / "x.npy", "--out", tmp_path / "run.parquet")
    assert capsys.readouterr().out == f"{tmp_path / 'run.parquet'}: 10 rows\n"
    rows = pyarrow.parquet.read_table(tmp_path / "run.parquet").to_pylist()
    assert [row["input"] for row in rows] == [f"{root / 'x.npy'}[{n}]" for n in range(10)]
    assert [row["probability"] for row in rows] == [row["probability"] for row in expected]
    for ending in (".npy", ".npz", ".csv", ".jsonl", ".parquet"):
        out = tmp_path / f"{ending}.jsonl"
        call("predict", exported, root / f"x{ending}", "--out", out)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        for line, wanted in zip(lines, expected, strict=True):
            assert line["label"] == wanted["label"]
            np.testing.assert_allclose(line["probability"], wanted["probability"], atol=1e-6)
    capsys.readouterr()
    call("predict", exported, root / "x.csv", "--format", "json")
    assert [row["label"] for row in json.loads(capsys.readouterr().out)] == [
        row["label"] for row in expected
    ]


def test_an_exported_model_refuses_what_it_cannot_read(trained, tmp_path):
    model = load_exported(trained[2])
    for name, content, said in (
        (
            "a.csv",
            "a,b\n1,2\n",
            r"a\.csv:2 needs a column x, or 64 columns of numbers",
        ),
        ("b.jsonl", '{"x": ["a"]}\n', r"b\.jsonl:1: x is not made of numbers"),
        ("c.jsonl", '{"x": [1, 2]}\n', "x must be 64 finite numbers"),
        ("d.jsonl", "[1]\n", "is no JSON object"),
        ("e.jsonl", "{", "cannot be read"),
        ("f.csv", "a,b\n", "has no rows"),
        ("g.wav", "", "is neither an image"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(jdl.Error, match=said):
            model.predict([tmp_path / name])
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 1), np.complex64))
    with pytest.raises(jdl.Error, match="float32 as x, and these are complex64"):
        model.predict([tmp_path / "x.npy"])


def test_the_function_is_compiled_once_for_all_pieces(trained):
    restored, traced = jdl.restore(trained[1]), []
    objective = restored.objective

    class Counted:
        def __getattr__(self, name):
            return getattr(objective, name)

        def predict(self, variables, batch):
            traced.append(batch["x"].shape)
            return objective.predict(variables, batch)

    with patch.object(type(restored), "objective", Counted()):
        for _ in range(3):
            restored.predict_all(restored.run.test)
    assert len(traced) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet", ".npy", ".npz"])
def test_memory_does_not_grow_with_the_inputs(trained, tmp_path, ending):
    """The peak of a process over 100,000 rows is at most 48 MiB above that over 10,000 before.

    Of text half of them: as Python's numbers they would need 98 MiB.
    """
    # Not ru_maxrss, which has the peak of the process that started this one.
    code = """
import sys
from jdl.cli import main

verb, model, *paths = sys.argv[1:]
for path in paths:
    sys.argv = ["jdl", verb, model, path, "--out", f"{path}.parquet"]
    main()
    print(open("/proc/self/status").read())
"""
    many = 50_000 if ending in (".csv", ".jsonl") else 100_000
    paths = [written(tmp_path / f"{n}{ending}", n) for n in (10_000, many)]
    words = [sys.executable, "-c", code, "predict", str(trained[2]), *map(str, paths)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    peaks = [int(text.split()[0]) for text in done.stdout.split("VmHWM:")[1:]]
    assert len(peaks) == 2
    assert peaks[1] - peaks[0] < 48 << 10, peaks


def written(path, rows):
    """A file of so many rows."""
    flat = np.random.default_rng(0).random((rows, 64), np.float32)
    if path.suffix in (".npy", ".npz"):
        x = flat.reshape(-1, 8, 8, 1)
        np.save(path, x) if path.suffix == ".npy" else np.savez_compressed(path, x=x)
    elif path.suffix == ".parquet":
        columns = {f"c{n:02}": flat[:, n] for n in range(64)}
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=10_000)
    else:
        header = ",".join(f"c{n:02}" for n in range(64)) + "\n" if path.suffix == ".csv" else ""
        with path.open("w") as file:
            file.write(header)
            for row in flat:
                text = ",".join(map(str, row.round(3).tolist()))
                file.write(f"{text}\n" if header else f'{{"x": [{text}]}}\n')
    return path


def test_an_exported_model_fills_lengths_in_as_its_script_does():
    shapes = {"x": ["batch", 3, 2], "length": ["batch"]}
    inputs = {name: {"shape": shape, "dtype": "int32"} for name, shape in shapes.items()}
    program = {"inputs": inputs, "max_time": None, "weights": []}
    model = ExportedModel(Path(), {"programs": {"predict": program}, "labels": []})
    vars(model).update(tokenizer=None)
    vars(model)["_opened"] = lambda weights, batch: {"value": batch["length"]}, [{}]
    with patch(
        "jdl.export.model.read_inputs", return_value=(["a"], {"x": np.zeros((1, 3, 2), int)})
    ):
        assert model.predict([])[0]["value"] == 3
