"""Exported models in ONNX: every family that converts answers in ONNX Runtime as its run does.

All of it is slow, and needs what `onnx_tools` installs: it is skipped where that cannot be had.
Seen to fail: where jax2onnx traces with strict promotion of types and ranks; where its `cumsum`
stays in JAX; graphs, where it traces at all; CRNN, poses and detectors, where a shape of ONNX has
JAX's symbolic dimension; detectors, where the state of non-maximum suppression is of booleans;
CLIP, where its causal mask is.
"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import train
from model_rows import by_tier
from model_table import TABLE
from test_export import CPU, data_of, output
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.export.example import difference
from jdl.export.generation import generate_example
from jdl.export.manifest import NAME, ONNX_TOLERANCE
from jdl.export.onnx_programs import run_onnx, write_onnx
from jdl.export.onnx_refusals import check_convertible
from jdl.export.onnx_tools import onnx_tools, tools_folder
from jdl.export.predictions import predict_example
from jdl.objectives.override import merge
from jdl.paths import by_path
from jdl.types import Predicts, SamplesLatents

pytestmark = pytest.mark.slow
CUMSUM = jnp.cumsum
NOT = {  # docs/export.md says why
    *("lstm-crf", "t5", "t5-copy", "captioner", "fake-quantized", "realnvp", "fast-speech"),
    *(
        "gpt",
        "gpt-grouped",
        "gpt-local",
        "gpt-experts",
        "gpt-balanced",
        "gpt-scan",
        "lstm-language",
    ),
    *("sasrec", "matrix-factorization", "item-towers", "word-vectors"),
}
ROWS = [row for row in TABLE + UNSUPERVISED if row.name not in NOT]


@pytest.fixture(scope="module", autouse=True)
def _tools():
    try:
        onnx_tools("jax2onnx")
    except jdl.Error as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("row", by_tier(ROWS, "nightly"))
def test_a_family_answers_in_onnx_runtime_as_its_run(row, tmp_path):
    objective, data = row.objective(row.model), data_of(row)
    variables = jax.jit(objective.init)(jax.random.key(0), data[0])
    weights = by_path(merge(objective, variables)[1])
    examples = []
    if isinstance(objective, Predicts):
        examples.append(predict_example(objective, variables, data, CPU))
    if isinstance(objective, SamplesLatents):
        examples.append(generate_example(objective, variables, data, CPU))
    assert examples
    for example in examples:
        path = tmp_path / f"{example.program.name}.onnx"
        check_convertible(example.program, objective)
        write_onnx(example.program, weights, path)
        assert jnp.cumsum is CUMSUM
        assert (
            difference(example.outputs, run_onnx(path, example.inputs, example.program.outputs))
            <= ONNX_TOLERANCE
        )
        one = {name: x[:1] if x.ndim else x for name, x in example.inputs.items()}
        alone = {name: x[:1] for name, x in example.outputs.items()}
        assert difference(alone, run_onnx(path, one, example.program.outputs)) <= ONNX_TOLERANCE


def test_a_folder_predicts_with_onnx_runtime_alone(tmp_path, monkeypatch):
    run = train(tmp_path / "runs", steps=4).folder
    to = jdl.export.export(run, tmp_path / "to", format="onnx")
    assert jdl.export.verify(to) == []
    assert "pip install onnxruntime numpy" in (to / "README.md").read_text()
    x = np.asarray(jdl.data.digits()[1].columns["x"][:5])
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tools_folder())]))
    rows = [json.loads(line) for line in output(to / "predict.py", tmp_path / "x.npy")]
    expected = jdl.inspect.predict.predict(jdl.restore(run), [tmp_path / "x.npz"])
    for row, wanted in zip(rows, expected, strict=True):
        assert row["label"] == wanted["label"]
        np.testing.assert_allclose(row["probability"], wanted["probability"], atol=1e-5)
    manifest = json.loads((to / NAME).read_text())
    (to / NAME).write_text(json.dumps(manifest | {"check": manifest["check"] | {"tolerance": 0}}))
    assert "the program predict answers" in "".join(jdl.export.verify(to))
