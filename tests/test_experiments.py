"""Every experiment is short, does nothing when imported, and trains."""

import ast
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import small_data

import jdl
from jdl.data import captions, corpus, fashion_graph, garments, keypoints
from jdl.learners import with_data
from jdl.train import check, placement
from jdl.train.experiment import load

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


@pytest.fixture(params=EXPERIMENTS, ids=lambda path: path.stem)
def script(request):
    return request.param


def test_is_short_and_says_what_it_reaches(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 40
    doc = ast.get_docstring(ast.parse(text))
    assert any(letter.isdigit() for letter in doc.splitlines()[0]) or "not measured yet" in doc
    assert "?" not in doc
    assert f"scripts/train experiments/{script.name}" in doc


IMPORTS_ALL = """
import contextlib, importlib, io, os, sys
import jax._src.xla_bridge as bridge

sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        importlib.import_module(name)
    assert not said.getvalue(), f"{name} printed {said.getvalue()!r}"
    assert not os.listdir(), f"{name} wrote {os.listdir()}"
    assert not bridge._backends, f"{name} started a device"
"""


@pytest.mark.slow
def test_importing_does_nothing(tmp_path):
    """No array is made, no file is written, nothing is printed."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_ALL, EXPERIMENTS[0].parent, *(e.stem for e in EXPERIMENTS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def small(monkeypatch):
    """Small random data in place of those that are fetched or large; samples in fewer steps."""
    few_steps = partial(jdl.objectives.diffusion, sampling_steps=2)
    monkeypatch.setattr(jdl.objectives, "diffusion", few_steps)
    monkeypatch.setattr(corpus, "stdlib", small_data.stdlib)
    for module in (garments, fashion_graph, keypoints, captions):
        monkeypatch.setattr(module, "tfds", small_data.tfds)
    for fake in small_data.FAKES:
        monkeypatch.setattr(jdl.data, fake.__name__, fake)
    return monkeypatch


SMALLEST = ("digits_mlp", "digits_cnn", "digits_rows_lstm", "digits_nnx", "stdlib_gpt", "titanic")
SMALLER = {
    "batch": 8,
    "width": 32,
    "depth": 1,
    "hidden": (16,),
    "length": 32,
    "context": 16,
    "vocabulary": 300,
    "scenes": 400,
    "lines": 400,
    "labels": 100,
    "share": 0.1,
}


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in SMALLEST else pytest.mark.slow)
        for path in EXPERIMENTS
    ],
)
def test_trains_a_few_steps_without_recompiling(script, tmp_path, small):
    _, run, config = load(script)
    fields = {name: value for name, value in SMALLER.items() if name in config.__dataclass_fields__}
    prepared = run(config(name=script.stem, steps=3, **fields))
    small.setattr(check, "_check_steps", lambda run: None)  # DQN and SAC begin to learn later
    compiled = []
    jit = placement.jit_learner
    small.setattr(
        placement, "jit_learner", lambda learner: compiled.append(jit(learner)) or compiled[-1]
    )
    result = jdl.fit(
        prepared, jdl.Options(root=tmp_path, log_every=1, eval_every=0, quiet=True), script
    )
    assert result.steps == 3
    assert compiled[0].step_fn._cache_size() == 1
    assert "test" in result.metrics
    assert all(np.isfinite(value) for value in result.scores.values())
    assert len((result.folder / "metrics.jsonl").read_text().splitlines()) >= 4


PROGRAMS = {  # StableHLO operations in a training step, of jax 0.10 or 0.12, whichever has more
    "digits_mlp": 1_113,
    "digits_cnn": 2_759,
    "digits_rows_lstm": 1_424,
    "stdlib_gpt": 6_851,
    "fashion_gan": 3_518,
    "cartpole_ppo": 3_541,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_of_a_step_has_not_grown(name, small):
    """A larger program compiles and runs longer: raise a number only for a reason."""
    _, run, config = load(EXPERIMENTS[0].with_stem(name))
    prepared = run(config(name=name))
    learner = with_data(prepared.learner, prepared.train)
    state = jax.eval_shape(learner.init, jax.random.key(0), prepared.train.spec)
    raw = jax.eval_shape(lambda: next(prepared.train.read()))
    program = jax.jit(learner.step).lower(state, raw).as_text()
    assert program.count(" stablehlo.") <= PROGRAMS[name]
