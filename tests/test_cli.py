"""The command line as its users meet it: output, error messages, exit codes, and its own cost.

Seen to fail: help that imports JAX, runs without a script that name no way to evaluate them, and
tracebacks of `jdl check` for scripts that raise, or return no run, and a warning of jdl's own with
its source line.
"""

import csv
import io
import json
import os
import resource
import subprocess
import sys
import textwrap
import warnings

import kitchen_sink
import numpy as np
import pytest
from harness import SCRIPT
from PIL import Image

import jdl
from jdl import cli
from jdl.inspect.evaluate import evaluate
from jdl.inspect.predict import predict
from jdl.metrics import scalars


@pytest.fixture
def call(capsys, monkeypatch):
    """Calls `jdl ARGUMENTS`: exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jdl", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


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


def test_warnings_of_jdl_are_notes_and_others_stay():
    with cli.warnings_as_notes():
        own, other = (
            warnings.formatwarning(UserWarning("slow"), UserWarning, file, 1)
            for file in (cli.__file__, __file__)
        )
    assert own == "jdl: slow\n"
    assert f"{__file__}:1: UserWarning: slow" in other
    assert warnings.formatwarning(UserWarning("slow"), UserWarning, cli.__file__, 1) != own


def test_help_exists_for_every_verb(call):
    assert "jdl data prepare" in call("--help")[1]
    assert call()[1] == call("--help")[1]
    for verb in cli.VERBS:
        assert f"jdl {verb}" in cli.HELP
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert f"jdl {verb}" in out
        if verb not in cli.WITH_SCRIPT:
            assert ("--root" in out) == (verb not in ("doctor", "serve", "verify"))
    code, out, _ = call("train", SCRIPT, "--help")
    assert code == 0
    for flag in ("--lr", "--batch", "--seed", "--save-every", "--fresh", "Training steps"):
        assert flag in out


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
    "raises": """
        def run(c):
            return {"sizes": (8, 8)}["size"]
    """,
    "returns": """
        import jdl
        Config = jdl.Config
        def run(c):
            jdl.data.digits()
    """,
    "divides": "1 / 0",
    "asserts": """
        def run(c):
            assert c is None
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
    (["train", "sizes"], "differ in shape"),
    (["train", "dataset"], "fashion_mnist"),
    (["check", "raises"], "raises KeyError: 'size' (raises.py, line 3, in run)"),
    (["check", "divides"], "raises ZeroDivisionError: division by zero (divides.py, line 1, in"),
    (["check", "asserts"], "raises AssertionError (asserts.py, line 3, in run): mend"),
    (["check", "returns"], "returns.py returned None, not a jdl.Run: did you forget `return`?"),
    (["train", "returns", "--epochs", "2"], "returned None, not a jdl.Run"),
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


@pytest.mark.slow
def test_a_script_is_a_program_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--batch", "0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("jdl: The batch size must be at least 1")


def test_help_takes_little_processor_time():
    """Without JAX and tyro, 0.1 s; the limit leaves room for a slow machine."""
    code = """
import sys, jdl.cli
sys.argv = ["jdl", "--help"]
jdl.cli.main()
assert not {"jax", "tyro", "numpy"} & set(sys.modules), sys.modules
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5


def test_a_module_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "jdl", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jdl: There is no command 'trian'. Did you mean train?")


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


def test_look_shows_the_data_of_a_script_as_text_and_as_a_picture(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(LOOKED_AT)
    code, out, err = call("data", "look", "mine.py", "--epochs", "2")
    assert (code, err) == (0, "")
    assert "mine: 4 steps (2 epochs of 2 steps)" in out
    assert "train  4 rows, 2 batches of 2 an epoch" in out
    assert "look/mine.png: the first rows" in out
    assert Image.open("look/mine.png").size[0] > 900
    code, _, err = call("data", "look")
    assert code == 2
    assert "needs the script of an experiment first" in err


def test_look_shows_text_and_names_what_is_broken(call, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(LOOKED_AT)
    code, out, _ = call("data", "look", script, "--kind", "text", "--out", tmp_path / "rows.png")
    assert code == 0
    assert "x: 'to be'" in out
    assert "y: question" in out
    assert not (tmp_path / "rows.png").exists()
    code, _, err = call("data", "look", script, "--kind", "broken")
    assert code == 2
    assert err.startswith("jdl: The batches of train cannot be made: TypeError")


LOOKED_AT = textwrap.dedent("""
    from dataclasses import dataclass
    import jdl, numpy as np

    @dataclass(frozen=True)
    class Config(jdl.Config):
        kind: str = "images"

    def run(c):
        tokens = jdl.data.ByteTokenizer().encode("to be")
        x = [tokens] * 4 if c.kind == "text" else np.ones((4, 8, 8, 1), np.float32)
        data = jdl.data.arrays(("answer", "question"), x=x, y=[1] * 4)
        data = data.map(lambda key, row: row["x"]["y"]) if c.kind == "broken" else data
        return jdl.Run(c, None, data.shuffled(2, c.seed), tokenizer=jdl.data.ByteTokenizer())
""")


def test_a_command_that_takes_a_script_explains_itself_without_one(capsys):
    cli.call_verb("study", ["--help"])
    shown = capsys.readouterr().out
    assert "Trains the trials of a study" in shown
    assert "`jdl study SCRIPT --help` lists all flags." in shown
