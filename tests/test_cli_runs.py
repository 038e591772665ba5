"""The commands for trained runs: show, evaluate, explain, predict, sample; runs without a script.

Seen to fail: runs without a script that name no way to evaluate them.
"""

import csv
import io
import json
import subprocess

import kitchen_sink
import numpy as np
import pytest
from harness import SCRIPT
from PIL import Image

import jdl
from jdl.inspect.evaluate import evaluate
from jdl.inspect.predict import predict
from jdl.metrics import scalars


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root with one finished run of 30 steps."""
    root = tmp_path_factory.mktemp("runs")
    subprocess.run(
        ["jdl", "train", str(SCRIPT), "--root", str(root), "--steps", "30"],
        check=True,
        capture_output=True,
    )
    return root


@pytest.mark.slow
def test_runs_show_evaluate_and_digest(call, trained):
    code, out, _ = call("runs", "--root", trained)
    assert code == 0
    assert "kitchen_sink" in out
    assert "30/30" in out
    assert "finished" in out
    code, out, _ = call("show", "kitchen_sink", "--root", trained)
    assert json.loads(out[out.index("{") : out.index("\n}\n") + 2])["config"]["steps"] == 30
    evaluated = call("evaluate", "kitchen_sink", "--root", trained)[1]
    folder = next(trained.glob("*/*/seed0"))
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert f"{last['accuracy']:.6f}" in evaluated
    code, out, _ = call("size", "kitchen_sink", "--root", trained)
    assert "head/Dense_0" in out
    assert (folder / "figures" / "size.png").exists()
    digests = {
        call("digest", name, "--root", trained)[1]
        for name in ("kitchen_sink", folder, "kitchen_sink/" + folder.parts[-2])
    }
    assert len(digests) == 1
    assert len(digests.pop().split()[0]) == 64


@pytest.mark.slow
def test_explain_draws_and_changes_nothing_of_the_run(call, trained, tmp_path):
    folder = next(trained.glob("*/*/seed0"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    names = ["--only", "calibration,grad_cam,boundary", "--root", trained]
    code, out, _ = call("explain", "kitchen_sink", "--rows", "0,7", "--to", tmp_path / "a", *names)
    assert code == 0
    cam, drawn, without, index = out.splitlines()
    assert drawn == str(tmp_path / "a" / "calibration.png")
    assert cam == str(tmp_path / "a" / "grad_cam.png")
    assert without.startswith("boundary does not apply: ")
    assert index == str(tmp_path / "a" / "index.md")
    assert "Rows 0, 7 of the test data" in (tmp_path / "a" / "index.md").read_text()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert call("explain", "kitchen_sink", *names)[0] == 0
    assert (folder / "figures" / "explain" / "index.md").exists()
    code, _, err = call("explain", "kitchen_sink", "--rows", "0,-1", *names)
    assert code == 2
    assert "--rows takes numbers from 0 on" in err


@pytest.mark.slow
def test_predict_reads_images_and_arrays_as_csv_and_json(call, trained, tmp_path):
    _, test = jdl.data.digits()
    batch = test.batches(len(test))[0]
    x = np.asarray(batch["x"])
    np.savez(tmp_path / "digits.npz", x=x)
    code, out, err = call("predict", "kitchen_sink", tmp_path / "digits.npz", "--root", trained)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == len(test)
    assert sum(float(rows[0][f"probability_{k}"]) for k in range(10)) == pytest.approx(1, abs=1e-5)
    right = np.mean(
        [int(row["label"]) == y for row, y in zip(rows, np.asarray(batch["y"]), strict=True)]
    )
    evaluated = call("evaluate", "kitchen_sink", "--root", trained)[1]
    assert f"test   accuracy                 {right:.6f}" in evaluated
    Image.fromarray((x[0, ..., 0] * 255).round().astype(np.uint8)).save(tmp_path / "digit.png")
    _, out, _ = call(
        "predict", "kitchen_sink", tmp_path / "digit.png", "--root", trained, "--format", "json"
    )
    row = json.loads(out)[0]
    assert row["input"].endswith("digit.png")
    assert row["label"] == int(rows[0]["label"])
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    code, _, err = call("predict", "kitchen_sink", tmp_path / "wide.png", "--root", trained)
    assert code == 2
    assert "rows of shape (8, 9, 1), but the model needs (8, 8, 1)" in err
    code, _, err = call(
        *("predict", "kitchen_sink", tmp_path / "digits.npz", "--root", trained),
        *("--out", tmp_path / "answers.npz"),
    )
    assert code == 2
    assert "neither a file that ends in .parquet, .csv, .jsonl" in err
    for name, content in (
        ("broken.png", b"not a picture"),
        ("broken.npz", b"PK nothing"),
        ("text.txt", b""),
    ):
        (tmp_path / name).write_bytes(content)
        code, _, err = call("predict", "kitchen_sink", tmp_path / name, "--root", trained)
        assert code == 2
        assert name in err
    np.savez(tmp_path / "other.npz", z=x)
    assert (
        "needs an array x"
        in call("predict", "kitchen_sink", tmp_path / "other.npz", "--root", trained)[2]
    )


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """A root with a language model and a model of pairs of texts, trained a little."""
    root = tmp_path_factory.mktemp("writers")
    text = root / "text.txt"
    text.write_text(
        "\n\n".join(f"{n} bottles of beer on the wall, {n} bottles of beer" for n in range(200))
    )
    gpt = SCRIPT.parents[2] / "experiments" / "stdlib_gpt.py"
    small = [
        "--steps",
        "30",
        "--batch",
        "8",
        "--width",
        "32",
        "--depth",
        "1",
        "--length",
        "32",
        "--text",
        str(text),
    ]
    for script, flags in ((gpt, small), (SCRIPT.parent / "seq2seq.py", [])):
        subprocess.run(
            ["jdl", "train", str(script), "--root", str(root), *flags],
            check=True,
            capture_output=True,
        )
    return root


@pytest.mark.slow
def test_sample_writes_on_from_the_prompt_and_repeats_by_its_seed(call, writers):
    def sample(*flags):
        code, out, err = call(
            "sample", "stdlib_gpt", "--root", writers, "--prompt", "7 bott", *flags
        )
        assert code == 0, err
        return out

    warm = ("--tokens", "40", "--temperature", "2")
    texts = sample(*warm, "-n", "3").split("\n---\n")
    assert len(set(texts)) == 3
    assert all(text.startswith("7 bott") and len(text) > 7 for text in texts)
    assert sample(*warm) == sample(*warm) != sample(*warm, "--seed", "1")
    greedy = sample("--tokens", "12", "--temperature", "0")
    assert (
        greedy
        == sample("--tokens", "12", "--top-k", "1")
        == sample("--tokens", "12", "--top-p", "1e-6")
    )
    assert greedy == sample("--tokens", "12", "--beams", "1")
    assert len(sample("--tokens", "5", "--beams", "3").split("\n---\n")) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stdlib_gpt", "--tokens", "0"], "at least 1 token"),
        (["stdlib_gpt", "--temperature", "-1"], "emperature"),
        (["stdlib_gpt", "--top-p", "2"], "top_p"),
        (["stdlib_gpt", "--top-k", "-3"], "top_k"),
        (["stdlib_gpt", "--beams", "-3"], "at least 1 beam"),
        (["stdlib_gpt", "--beams", "2", "--tokens", "900"], "TransformerConfig.max_length"),
        (["seq2seq"], "`jdl predict` takes the others"),
    ],
)
def test_sample_refuses(call, writers, arguments, message):
    code, out, err = call("sample", *arguments, "--root", writers)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.slow
def test_predict_translates_the_lines_of_a_file_as_the_score_counts_them(call, writers, tmp_path):
    from seq2seq import WORDS

    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    code, out, err = call("predict", "seq2seq", tmp_path / "words.txt", "--root", writers)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["input"].rpartition(":")[2] for row in rows] == [
        str(n + 1) for n in range(len(WORDS))
    ]
    right = np.mean([row["text"] == word[::-1] for row, word in zip(rows, WORDS, strict=True)])
    summary = json.loads(next(writers.glob("seq2seq/*/seed0/summary.json")).read_text())
    assert summary["metrics"]["score"]["exact"] == right > 0.5
    (tmp_path / "long.txt").write_text("abc\nabcdefghij\n")
    code, _, err = call("predict", "seq2seq", tmp_path / "long.txt", "--root", writers)
    assert code == 2
    assert "long.txt:2 has" in err


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A run as a notebook trains it, without a script: its root, the run, and the result."""
    root = tmp_path_factory.mktemp("notebook")
    run = kitchen_sink.run(kitchen_sink.Config(name="notebook", steps=3))
    return root, run, jdl.fit(run, jdl.Options(root=root, quiet=True))


@pytest.mark.parametrize("words", [["evaluate"], ["predict", "INPUT"], ["show", "--memory"]])
def test_a_run_without_a_script_names_the_way_to_restore_it(call, notebook, tmp_path, words):
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8, 8, 1), np.float32))
    verb, *rest = (str(tmp_path / "x.npz") if word == "INPUT" else word for word in words)
    code, out, err = call(verb, "notebook", *rest, "--root", notebook[0])
    assert (code, out) == (2, "")
    assert "jdl.restore(" in err


def test_a_run_without_a_script_is_restored_from_the_run_itself(notebook, tmp_path):
    _, run, result = notebook
    trained = jdl.restore(result.folder, run)
    assert trained.step == 3
    assert evaluate(trained)["test"] == scalars(result.metrics["test"])
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8, 8, 1), np.float32))
    assert len(predict(trained, [tmp_path / "x.npz"])) == 2
    other = kitchen_sink.run(kitchen_sink.Config(name="notebook", steps=4))
    with pytest.raises(jdl.Error, match="another config"):
        jdl.restore(result.folder, other)
