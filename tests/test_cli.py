"""The command line as its users meet it: what it prints, and how it refuses."""

import csv
import io
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from harness import SCRIPT
from PIL import Image

from jdl.cli.main import main


def jdl(capsys, monkeypatch, *arguments):
    """Exit code, standard output and standard error of `jdl ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["jdl", *map(str, arguments)])
    code = 0
    try:
        main.main()
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *arguments: jdl(capsys, monkeypatch, *arguments)


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


def test_help_is_there_for_every_verb(call):
    assert "jdl data prepare" in call("--help")[1]
    assert call()[1] == call("--help")[1]
    for verb in main.VERBS:
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert ("--root" in out) == (verb != "doctor")
    code, out, _ = call("train", SCRIPT, "--help")
    assert code == 0
    for flag in ("--lr", "--batch", "--seed", "--save-every", "--fresh", "Updates to train for"):
        assert flag in out


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
    digests = {
        call("digest", name, "--root", trained)[1]
        for name in ("kitchen_sink", folder, "kitchen_sink/" + folder.parts[-2])
    }
    assert len(digests) == 1
    assert len(digests.pop().split()[0]) == 64


def test_predict_reads_images_and_arrays_as_csv_and_json(call, trained, tmp_path):
    import jdl as library

    _, test = library.data.digits()
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
    found = json.loads(out)[0]
    assert found["input"].endswith("digit.png")
    assert found["label"] == int(rows[0]["label"])
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    code, _, err = call("predict", "kitchen_sink", tmp_path / "wide.png", "--root", trained)
    assert code == 2
    assert "(8, 9, 1) a row, and the model reads (8, 8, 1)" in err
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
        "must be its array x"
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stdlib_gpt", "--tokens", "0"], "at least 1 token"),
        (["stdlib_gpt", "--temperature", "-1"], "emperature"),
        (["stdlib_gpt", "--top-p", "2"], "top_p"),
        (["stdlib_gpt", "--top-k", "-3"], "top_k"),
        (["stdlib_gpt", "--beams", "-3"], "at least 1 beam"),
        (["stdlib_gpt", "--beams", "2", "--tokens", "900"], "TransformerConfig.max_length"),
        (["reverser"], "`jdl predict` takes the others"),
    ],
)
def test_sample_refuses(call, writers, arguments, message):
    code, out, err = call("sample", *arguments, "--root", writers)
    assert (code, out) == (2, "")
    assert message in err


def test_predict_translates_the_lines_of_a_file_as_the_score_counts_them(call, writers, tmp_path):
    from reverser import WORDS

    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    code, out, err = call("predict", "reverser", tmp_path / "words.txt", "--root", writers)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["input"].rpartition(":")[2] for row in rows] == [
        str(n + 1) for n in range(len(WORDS))
    ]
    right = np.mean([row["text"] == word[::-1] for row, word in zip(rows, WORDS, strict=True)])
    summary = json.loads(next(writers.glob("reverser/*/seed0/summary.json")).read_text())
    assert summary["metrics"]["score"]["exact"] == right > 0.5
    (tmp_path / "long.txt").write_text("abc\nabcdefghij\n")
    code, _, err = call("predict", "reverser", tmp_path / "long.txt", "--root", writers)
    assert code == 2
    assert "Line 2" in err


SCRIPTS = {
    "no_run": "x = 1",
    "no_import": "import nothing_of_that_name",
    "labels": """
        import jax, numpy as np, optax, jdl
        from jdl.models.mlp import MLP
        Config = jdl.Config
        def run(c):
            data = jdl.data.arrays(x=np.zeros((8, 2)), y=np.arange(8))
            learner = jdl.descent(jdl.objectives.classify(MLP(4)), optax.sgd(0.1))
            return jdl.Run(c, learner, data.shuffled(4, c.seed))
    """,
    "nan": """
        import numpy as np, jdl
        def run(c):
            return jdl.data.arrays(x=np.full((8, 2), np.nan))
    """,
    "sizes": """
        import numpy as np, jdl
        def run(c):
            return jdl.data.arrays(x=[np.zeros((8, 8, 1)), np.zeros((8, 9, 1))])
    """,
    "dataset": """
        import jdl
        def run(c):
            return jdl.data.tfds("fashion_mnits")
    """,
}

BAD = [
    (["trian"], "Did you mean train"),
    (["train"], "needs the script"),
    (["train", "nowhere.py"], "no experiment nowhere.py"),
    (["train", SCRIPT, "--lrr", "1"], "--lr"),
    (["train", SCRIPT, "--lr", "fast"], "fast"),
    (["train", SCRIPT, "--batch", "-5"], "-5"),
    (["train", SCRIPT, "--batch", "100000"], "larger than the dataset"),
    (["train", SCRIPT, "--steps", "0"], "--steps must be 1 or more"),
    (["train", SCRIPT, "--log-every", "0"], "--log-every must be 1 or more"),
    (["train", SCRIPT, "--micro-batches", "5"], "cannot be cut into 5"),
    (["train", SCRIPT, "--root", "/dev/null/runs"], "--root"),
    (["train", SCRIPT, "--root", "/proc/runs"], "--root"),
    (["train", "no_run"], "defines no function run"),
    (["train", "no_import"], "nothing_of_that_name"),
    (["train", "labels"], "give the model 8 outputs"),
    (["train", "nan"], "NaN or infinite"),
    (["train", "sizes"], "differ in size"),
    (["train", "dataset"], "fashion_mnist"),
    (["show", "nothing"], "jdl runs"),
    (["digest", "nothing"], "jdl runs"),
    (["predict", "nothing"], "input"),
    (["data", "prepare", "fashion_mnits"], "fashion_mnist"),
    (["data", "prepare", "fashion_mnist", "--from", "/nowhere"], "has no file"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: " ".join(map(str, value))[-40:]
)
def test_bad_input_ends_with_2_and_one_paragraph_before_anything_is_compiled(
    call, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "jax._src.compiler.compile_or_get_cached", None
    )  # whoever compiles, fails with a traceback
    arguments = list(arguments)
    if len(arguments) > 1 and arguments[1] in SCRIPTS:
        script = tmp_path / f"{arguments[1]}.py"
        script.write_text(textwrap.dedent(SCRIPTS[arguments[1]]))
        arguments[1] = script
    code, out, err = call(*arguments)
    assert code == 2, (out, err)
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) < 16
    assert not (tmp_path / "runs").exists()


def test_a_script_is_a_program_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--batch", "0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("jdl: A batch has at least 1 row")
