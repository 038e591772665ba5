"""A run's folder keeps the code that made it, and the run is rebuilt from there.

Seen to fail: rebuilt from the script's own path (moved, changed), and with modules beside it taken
from `sys.modules` (two runs of one process whose helpers differ); new code recorded before the
state is restored, and by a run that is finished; no hash of the program, and one without the values
of constants; a finished run evaluated with new code; Orbax's expected log lines let through; code
compared with its comments.
"""

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import harness
import jax
import numpy as np
import pytest
from harness import digest

import jdl
from jdl.store.code import read_code
from jdl.train import experiment
from jdl.train.program_hash import program_hash
from jdl.train.result import numbers

SCRIPT = '''"""A small experiment."""

import dataclasses
from pathlib import Path

import optax

import jdl
from helper import CLASSES
from parts.model import model


@dataclasses.dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 4
    widths: tuple[int, ...] = (4,)


def run(c):
    from late import best

    factor = float((Path(__file__).parent / "factor.txt").read_text())
    train, test = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(model(CLASSES, c.widths)), optax.sgd(factor))
    return jdl.Run(c, learner, train.shuffled(32, c.seed), test=test.batches(128), best=best())
'''
FILES = {
    "small.py": SCRIPT,
    "helper.py": "import json\nimport deepest\nCLASSES = 10\n",
    "deepest.py": "",
    "late.py": 'def best():\n    return "max accuracy"\n',
    "parts/model.py": "from .deeper import hidden\nfrom jdl.models.mlp import MLP\n\n\n"
    "def model(classes, widths):\n    return MLP(classes, hidden=hidden(widths))\n",
    "parts/deeper.py": "def hidden(widths):\n    return widths\n",
    "unused.py": "1 / 0\n",
}
HALVED = """

class Halved(MLP):
    def __call__(self, x, train=False):
        return super().__call__(x, train) / 2
"""
SPEC = jax.ShapeDtypeStruct((3,), np.float32)
CODE = {"deepest.py", "helper.py", "late.py", "parts/deeper.py", "parts/model.py", "small.py"}


@pytest.fixture
def modules():
    """The imports of a test do not stay."""
    path, finders = [*sys.path], [*sys.meta_path]
    yield
    forget()
    sys.path[:], sys.meta_path[:] = path, finders


@pytest.fixture
def script(tmp_path, modules):
    """A script with modules and data beside it."""
    for name, text in FILES.items():
        path = tmp_path / "scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "scripts" / "factor.txt").write_text("0.1")
    return tmp_path / "scripts" / "small.py"


def forget():
    for name in [*FILES, "parts"]:
        sys.modules.pop(name.removesuffix(".py").replace("/", "."), None)
    sys.path[:] = [path for path in sys.path if not path.endswith("/scripts")]


def train(script, root, *flags):
    result = experiment.train(script, ["--root", str(root), "--quiet", *flags], "jdl train")
    forget()
    return result


def repeated(result, root):
    """The digest of the same run, rebuilt from its folder."""
    run, script = experiment.recorded(result.folder)
    return digest(jdl.fit(run, jdl.Options(root=root, quiet=True), script))


@pytest.mark.slow
def test_the_folder_keeps_the_script_and_what_it_imports_from_beside_it(script, tmp_path):
    result = train(script, tmp_path / "runs")
    code = result.folder / "code"
    kept = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert kept == CODE == set(read_code(script))
    record = json.loads((result.folder / "run.json").read_text())
    assert set(record["code"]) == CODE
    assert all(len(sha) == 64 for sha in record["code"].values())


@pytest.mark.slow
def test_a_run_is_rebuilt_where_the_script_has_changed(script, tmp_path):
    result = train(script, tmp_path / "runs")
    script.write_text("def run(c): return None\n")
    (script.parent / "helper.py").write_text("CLASSES = 0\n")
    assert repeated(result, tmp_path / "again") == digest(result)


@pytest.mark.slow
def test_a_run_is_rebuilt_where_the_script_has_moved(script, tmp_path):
    script.write_text(
        SCRIPT.replace('float((Path(__file__).parent / "factor.txt").read_text())', "0.1")
    )
    result = train(script, tmp_path / "runs")
    shutil.rmtree(script.parent)
    assert repeated(result, tmp_path / "again") == digest(result)


@pytest.mark.slow
def test_two_runs_in_one_process_have_each_its_own_modules(script, tmp_path):
    first = train(script, tmp_path / "runs", "--widths", "4")
    (script.parent / "parts" / "deeper.py").write_text("def hidden(widths):\n    return (6,)\n")
    second = train(script, tmp_path / "runs", "--widths", "6")
    sys.modules["helper"] = ModuleType("helper")  # of the same name, and without CLASSES
    before = {**sys.modules}
    assert repeated(first, tmp_path / "again") == digest(first)
    assert repeated(second, tmp_path / "again") == digest(second)
    assert repeated(first, tmp_path / "third") == digest(first)
    assert not {"small", "parts.deeper"} & (set(sys.modules) - set(before))
    assert sys.modules["helper"] is before["helper"]


@pytest.mark.slow
def test_code_that_changes_on_the_way_is_noted_and_both_are_kept(script, tmp_path, capsys):
    with pytest.raises(jdl.Error, match="paused"):
        train(script, tmp_path / "runs", "--until", "2")
    folder = harness.folder_of(tmp_path / "runs")
    before = json.loads((folder / "run.json").read_text())
    (script.parent / "late.py").write_text('def best():\n    return "max " + "accuracy"\n')
    capsys.readouterr()
    train(script, tmp_path / "runs")
    told = "was trained by other code (late.py): it goes on from step 2 with the new code"
    assert told in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())
    segment = record["segments"][0]
    assert segment["code_changed"] == {"late.py": before["code"]["late.py"]}
    assert (folder / segment["code_before"] / "late.py").read_text() == FILES["late.py"]
    assert "+" in (folder / "code" / "late.py").read_text()
    assert experiment.recorded(folder)[0].best == "max accuracy"


@pytest.mark.parametrize(
    ("old", "new", "misfit"),
    [
        ("optax.sgd", "optax.adam", "it has no opt_state/0/count"),
        ("model(CLASSES, c.widths)", "model(CLASSES, (6,))", r"bias is float32\[4\] there and .*6"),
    ],
)
def test_code_that_does_not_fit_a_finished_run_leaves_it_as_it_is(
    script, tmp_path, old, new, misfit
):
    result = train(script, tmp_path)
    before = (result.folder / "run.json").read_bytes()
    script.write_text(SCRIPT.replace(old, new))
    cause = r"or with other versions of the libraries .run.json has them"
    with pytest.raises(jdl.Error, match=rf"{misfit}.*other code, {cause}.*--fresh.*--name.$"):
        train(script, tmp_path)
    assert (result.folder / "run.json").read_bytes() == before
    assert digest(result.folder) == digest(result)
    _, run, config = experiment.load(script)
    other = run(config(name="small"))
    with pytest.raises(jdl.Error, match=rf"{misfit}.*{cause}.*jdl.restore"):
        jdl.restore(result.folder, other)


def test_a_finished_run_says_each_time_that_other_code_trained_it(script, tmp_path, capsys):
    result = train(script, tmp_path)
    assert "other code" not in capsys.readouterr().err
    before = (result.folder / "run.json").read_bytes()
    script.write_text(SCRIPT.replace("optax.sgd(factor)", "optax.sgd(10 * factor)"))
    for _ in range(2):
        assert digest(train(script, tmp_path)) == digest(result)
        told = "was trained by other code (small.py): nothing was trained, and its numbers are"
        assert told in capsys.readouterr().err
    assert (result.folder / "run.json").read_bytes() == before
    assert (result.folder / "code" / "small.py").read_text() == SCRIPT


@pytest.mark.parametrize("kept", [True, False])
def test_a_finished_run_of_other_code_has_its_recorded_numbers(script, tmp_path, kept, capsys):
    """The new code fits the old weights, and would give other metrics."""

    def trained():
        _, run, config = experiment.load(script)
        options = jdl.Options(root=tmp_path, quiet=True)
        result = jdl.fit(run(config(name="small")), options, script if kept else None)
        forget()
        return result

    first = trained()
    before = (first.folder / "summary.json").read_bytes()
    assert json.loads(before)["metrics"] == numbers(first)
    if kept:
        assert repr(jdl.restore(first.folder)).endswith(", widths=(4,)) at step 4>")
    module = script.parent / "parts" / "model.py"
    module.write_text(module.read_text().replace("return MLP(", "return Halved("))
    module.write_text(f"{module.read_text()}{HALVED}")
    again = trained()
    assert "other code" in capsys.readouterr().err
    assert numbers(again) == numbers(first)
    assert str(numbers(first)["test"]["loss"])[:6] in repr(again)
    assert (first.folder / "summary.json").read_bytes() == before


def test_another_comment_is_no_other_code(script, tmp_path, capsys):
    train(script, tmp_path)
    changed = SCRIPT.replace("A small experiment.", "It reaches 0.9.")
    script.write_text(f"# A comment\n{changed}")
    train(script, tmp_path)
    assert "other code" not in capsys.readouterr().err


def test_a_run_without_code_is_compared_by_what_it_computes(script, tmp_path, capsys):
    _, run, config = experiment.load(script)
    told = "by other code (another initial state or training step): "
    until, whole = (
        jdl.Options(root=tmp_path, quiet=True, until=2),
        jdl.Options(tmp_path, quiet=True),
    )

    def fit(factor, options):
        (script.parent / "factor.txt").write_text(factor)
        return jdl.fit(run(config(name="small")), options)

    with pytest.raises(jdl.Error, match="paused"):
        fit("0.1", until)
    result = fit("0.1", whole)
    assert "other code" not in capsys.readouterr().err
    for _ in range(2):
        fit("0.2", whole)
        assert f"{told}nothing was trained" in capsys.readouterr().err
    before = json.loads((result.folder / "run.json").read_text())
    with pytest.raises(jdl.Error, match="paused"):
        fit("0.1", replace(until, fresh=True))
    fit("0.2", whole)
    assert f"{told}it goes on from step 2" in capsys.readouterr().err
    record = json.loads((result.folder / "run.json").read_text())
    assert record["segments"][0]["program_before"] == before["program"] != record["program"]
    fit("0.2", whole)
    assert "other code" not in capsys.readouterr().err


def test_a_program_hash_sees_the_values_of_constants():
    def hash_of(constant):
        def step(state, batch):
            return state, batch * jax.jit(lambda x: x * constant)(state)

        learner = SimpleNamespace(init=lambda key, batch: batch, step=step)
        return program_hash(SimpleNamespace(learner=learner, train=SimpleNamespace(spec=SPEC)))

    first = hash_of(np.arange(3.0))
    assert hash_of(np.arange(3.0)) == first
    assert hash_of(np.arange(3.0) + 1) != first


def test_the_expected_lines_of_orbax_are_not_logged(script, tmp_path, caplog):
    _, run, config = experiment.load(script)
    own = (1, lambda step, state, metrics: logging.getLogger("absl").warning("a user's"))
    run = replace(run(config(name="small", steps=1)), hooks=[own])
    with caplog.at_level(logging.WARNING, "absl"):
        result = jdl.fit(run, jdl.Options(root=tmp_path, quiet=True, save_every=1))
        jdl.restore(result.folder, run)
        logging.getLogger("absl").warning("Requested `tracked_metric`; did not provide metrics.")
    absl = [record.getMessage() for record in caplog.records if record.name == "absl"]
    assert absl == ["a user's", "Requested `tracked_metric`; did not provide metrics."]


@pytest.mark.slow
def test_a_kill_while_code_is_replaced_heals(script, tmp_path):
    with pytest.raises(jdl.Error, match="paused"):
        train(script, tmp_path / "runs", "--until", "2")
    folder = harness.folder_of(tmp_path / "runs")
    (folder / "code").rename(folder / ".code")
    (folder / ".code" / "late.py").unlink()
    with pytest.raises(jdl.Error, match="not as it was recorded"):
        experiment.recorded(folder)
    result = train(script, tmp_path / "runs")
    assert "segments" not in json.loads((folder / "run.json").read_text())
    assert repeated(result, tmp_path / "again") == digest(result)


def test_code_that_was_edited_is_refused(script, tmp_path):
    result = train(script, tmp_path / "runs")
    path = result.folder / "code" / "helper.py"
    path.write_text(path.read_text() + "#\n")
    with pytest.raises(jdl.Error, match=r"code/helper.py is not as it was recorded.*jdl.restore\("):
        experiment.recorded(result.folder)


def test_a_run_without_a_script_names_the_way_to_restore_it(script, tmp_path):
    _, run, config = experiment.load(script)
    result = jdl.fit(run(config(name="small")), jdl.Options(root=tmp_path, quiet=True))
    record = json.loads((result.folder / "run.json").read_text())
    assert record["script"] is None
    assert record["code"] == {}
    with pytest.raises(jdl.Error, match=r"without a script.*jdl.restore\(folder, run\)"):
        experiment.recorded(result.folder)


def test_a_run_that_goes_on_from_python_keeps_its_code(script, tmp_path):
    with pytest.raises(jdl.Error, match="paused"):
        train(script, tmp_path / "runs", "--until", "2")
    folder = harness.folder_of(tmp_path / "runs")
    before = (folder / "run.json").read_text()
    jdl.fit(experiment.recorded(folder)[0], jdl.Options(root=tmp_path / "runs", quiet=True))
    assert (folder / "run.json").read_text() == before


@pytest.mark.slow
def test_quiet_prints_the_result_alone(script, tmp_path, capsys):
    result = train(script, tmp_path)
    printed = capsys.readouterr().out
    accuracy = float(result.metrics["test"]["accuracy"].value())
    assert printed.count("\n") == 1
    assert printed.startswith("step 4  test loss ")
    assert f"accuracy {accuracy:.4f}" in printed
    assert printed.endswith(f"{result.folder}\n")
    assert Path(result.folder, "summary.json").exists()


def test_what_is_no_run_or_no_folder_of_one_is_named(tmp_path):
    """Seen to fail: they raised AttributeError, and "cannot be read as JSON"."""

    def run(c):
        """A function that was not called."""

    with pytest.raises(jdl.Error, match=r"takes a jdl.Run, not the function run: call jdl.fit"):
        jdl.fit(run)
    with pytest.raises(jdl.Error, match=r"digits is not the folder of a run.*runs/NAME/DIGEST"):
        jdl.restore(tmp_path / "digits")
