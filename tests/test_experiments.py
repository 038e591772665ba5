"""Every experiment is short, does nothing when imported, and trains."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jdl
from jdl.runs.experiment import load

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


@pytest.fixture(params=EXPERIMENTS, ids=lambda path: path.stem)
def script(request):
    return request.param


def test_is_short_and_says_what_it_reaches(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 40
    doc = ast.get_docstring(ast.parse(text))
    assert "%" in doc.splitlines()[0] + doc.splitlines()[1]
    assert f"scripts/train experiments/{script.name}" in doc


def test_importing_does_nothing(script, tmp_path):
    """No array is made, no file is written, nothing is printed."""
    code = f"""
import sys; sys.path.insert(0, {str(script.parent)!r})
import {script.stem}
import jax._src.xla_bridge as bridge
assert not bridge._backends, "a device was started"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def small(name, *splits, **options):
    """Stands in for TFDS where it has nothing prepared: random images of the right form."""
    rng = np.random.default_rng(0)
    return tuple(
        jdl.data.arrays(x=rng.integers(0, 256, (n, 28, 28, 1), np.uint8), y=rng.integers(0, 10, n)) for n in (300, 70)
    )


def test_trains_a_few_steps_without_recompiling(script, tmp_path, monkeypatch):
    monkeypatch.setattr(jdl.data, "tfds", small)
    _, run, config = load(script)
    prepared = run(config(name=script.stem, steps=3))
    compiled = []
    from jdl.runs import fit as loop

    make = loop.compiled
    monkeypatch.setattr(loop, "compiled", lambda learner: compiled.append(make(learner)) or compiled[-1])
    result = jdl.fit(prepared, jdl.Options(root=tmp_path, log_every=1, quiet=True), script)
    assert result.steps == 3
    assert compiled[0].step._cache_size() == 1
    assert set(result.metrics) == {"test"}
    assert len((result.folder / "metrics.jsonl").read_text().splitlines()) >= 4
