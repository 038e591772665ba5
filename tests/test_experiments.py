"""Every experiment is short, does nothing when imported, and trains."""

import ast
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import jdl
from jdl.data import captions, corpus, garments, time_series
from jdl.data.graphs import graph
from jdl.learners import with_data
from jdl.train import placement
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


def test_importing_does_nothing(tmp_path):
    """No array is made, no file is written, nothing is printed."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_ALL, EXPERIMENTS[0].parent, *(e.stem for e in EXPERIMENTS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def digit_boxes(train, test):
    """Small random images with a box each."""
    x = np.random.default_rng(0).integers(0, 256, (train + test, 64, 64, 1), np.uint8)
    boxes = np.tile(np.float32([[8, 8, 30, 30], [0, 0, 0, 0]]), (len(x), 1, 1))
    whole = jdl.data.arrays(x=x, boxes=boxes, y=np.tile([3, -1], (len(x), 1)))
    return whole.select(slice(train)), whole.select(slice(train, None))


def stdlib():
    modules = ("import os, re", "import sys", "import ast, io, re, sys")
    return [
        f"{modules[n % 3]}\n" + f"def f{n}(x, y={n}):\n    return x + {n}\n" * 40
        for n in range(100)
    ]


def spoken_numbers(train=6_000, test=1_000, seed=0):
    """Noise in place of speech."""
    rng = np.random.default_rng(0)
    length = rng.integers(400, 1_280, 50)
    x = rng.random((50, 1_280), np.float32) * (np.arange(1_280) < length[:, None])
    y = rng.integers(1, 28, (50, 2))
    labels = ("", *" abcdefghijklmnopqrstuvwxyz")
    return jdl.data.arrays(labels, x=x, length=length, y=y).split(0.6, 0.2, 0.2)


@pytest.fixture
def small(monkeypatch):
    """Small random data in place of those that are fetched or large; samples in fewer steps."""
    rng = np.random.default_rng(0)

    def tfds(name, *splits, **options):
        return tuple(
            jdl.data.arrays(
                "0123456789", x=rng.integers(0, 256, (n, 28, 28, 1), np.uint8), y=np.arange(n) % 10
            )
            for n in (300, 70)
        )

    def electricity(context=96, horizon=48):
        table = np.stack([np.sin(np.arange(3_000) / 8), *rng.random((6, 3_000))], 1)
        return time_series.forecast_windows(table, context, horizon, season=336)

    def electricity_anomalies():
        x, y = rng.normal(size=(300, 48, 4)), np.arange(300) % 3 == 0
        return jdl.data.arrays(("normal", "anomaly"), x=x, y=y).split(0.7, 0.3)

    def translation(source, target):
        texts = [(f"the number {n} is", f"le nombre {n} est") for n in range(400)]
        return texts[:300], texts[300:350], texts[350:]

    def quran_places():
        texts = [f"verse {n} of this place" for n in range(300)]
        places = [("meccan", "medinan")[n % 2] for n in range(300)]
        return tuple({"text": texts[:n], "label": places[:n]} for n in (300, 70, 70))

    def pronunciations(frames=2):
        lengths = rng.integers(2, 9, 400)
        steps = np.arange(8)[None] < lengths[:, None]
        x, y = (np.where(steps, rng.integers(1, 28, (400, 8)), 0) for _ in range(2))
        labels = tuple(f"P{n}" for n in range(40))
        return jdl.data.arrays(labels, x=x, length=lengths, y=y, y_length=lengths).split(
            0.8, 0.1, 0.1
        )

    def cora():
        return graph(
            rng.random((1_700, 8)), rng.integers(0, 1_700, (3_000, 2)), np.arange(1_700) % 7
        )

    def freesolv():
        molecules = [
            {
                "x": rng.random((n % 5 + 2, 4)),
                "edges": [(0, 1)],
                "edge_features": rng.random((1, 3)),
                "y": float(n),
            }
            for n in range(60)
        ]
        return jdl.data.graphs(molecules)

    def orl_faces():
        x = rng.integers(0, 256, (400, 56, 46, 1), np.uint8)
        return jdl.data.arrays(x=x, y=np.arange(400) // 10)

    def titanic(**options):
        columns = {"sex": ["male", "female"] * 40, "age": [None, 30.0, 40.5, 8.0] * 20}
        columns["survived"] = ["yes", "no", "no", "yes", "no"] * 16
        return jdl.data.frame(columns, target="survived", **options)

    few_steps = partial(jdl.objectives.diffusion, sampling_steps=2)
    monkeypatch.setattr(jdl.objectives, "diffusion", few_steps)
    monkeypatch.setattr(corpus, "stdlib", stdlib)
    monkeypatch.setattr(garments, "tfds", tfds)
    monkeypatch.setattr(captions, "tfds", tfds)
    for fake in (
        tfds, cora, electricity, orl_faces, titanic, translation, quran_places, pronunciations,
        spoken_numbers, digit_boxes, electricity_anomalies, freesolv,
    ):  # fmt: skip
        monkeypatch.setattr(jdl.data, fake.__name__, fake)
    return monkeypatch


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
}


def test_trains_a_few_steps_without_recompiling(script, tmp_path, small):
    _, run, config = load(script)
    fields = {name: value for name, value in SMALLER.items() if name in config.__dataclass_fields__}
    prepared = run(config(name=script.stem, steps=3, **fields))
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
