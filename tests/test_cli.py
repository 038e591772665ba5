"""The command line as its users meet it: help, error messages, exit codes, and its own cost.

Seen to fail: help that imports JAX, tracebacks of `jdl check` for scripts that raise, or return no
run, and a warning of jdl's own with its source line.
"""

import os
import resource
import subprocess
import sys
import textwrap
import warnings

import pytest
from harness import SCRIPT
from PIL import Image

from jdl import cli


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
