"""Weights from files, folders, runs and the hub; hostile and damaged files are refused.

Seen to fail: with `allow_pickle=True`, with an index followed out of its folder, with `save` that
overwrites, with the newest checkpoint's parameters in place of their average, with those of a
run without code, whatever its learner or its adapters, with its frozen ones apart, and with
adapters or quantized weights as they are trained.
"""

import json
import pickle
import re
import struct

import jax
import numpy as np
import optax
import pytest

import jdl
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP
from jdl.train.experiment import load as load_script
from jdl.weights.files import read_weights, write_safetensors
from jdl.weights.load import arrays_by_path
from jdl.weights.rules import CONV, LINEAR, Layout, Rule, to_jdl, to_theirs

ARRAYS = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.ones(2, np.float16)}
ALL = ARRAYS | {"scalar": np.array(2, np.float32), "half": np.ones(3, "bfloat16")}


def equal(found, expected=ARRAYS):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_what_is_saved_is_loaded_and_never_overwritten(tmp_path):
    variables = {
        "params": {"a": {"b": ALL["a/b"]}, **{name: ALL[name] for name in ("c", "scalar", "half")}},
        "cache": {"k": np.ones(1)},
    }
    path = tmp_path / "w.safetensors"
    jdl.weights.save(variables, path)
    expected = {f"params/{name}": array for name, array in ALL.items()}
    equal(jdl.weights.load(path).arrays, expected)
    equal(jdl.weights.load(str(tmp_path)).arrays, expected)
    about = repr(jdl.weights.load(path))
    assert about == f"Weights({path}: 4 arrays, 12 numbers, 38 bytes, SHA-256 {about[-13:-1]})"
    assert "no such file" in repr(jdl.weights.load("none.npz"))
    with pytest.raises(jdl.Error, match="exists already"):
        jdl.weights.save(variables, path)


def test_files_in_parts_are_read_by_their_index(tmp_path):
    parts = {"one.safetensors": {"a/b": ARRAYS["a/b"]}, "two.safetensors": {"c": ARRAYS["c"]}}
    for name, arrays in parts.items():
        write_safetensors(tmp_path / name, arrays)
    index = tmp_path / "model.safetensors.index.json"
    where = {weight: name for name, arrays in parts.items() for weight in arrays}
    index.write_text(json.dumps({"weight_map": where}))
    arrays, sha256 = read_weights(tmp_path)
    equal(arrays)
    assert sha256 != read_weights(tmp_path / "one.safetensors")[1]
    (tmp_path.parent / "away.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes())
    index.write_text(json.dumps({"weight_map": {"a/b": "../away.safetensors"}}))
    with pytest.raises(jdl.Error, match="not beside it"):
        read_weights(tmp_path)


def safetensors_with(header, data=b"\0" * 8, length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start, end, shape=(1,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


DAMAGED = {
    "cut.safetensors": safetensors_with({"a": entry(0, 8, (2,))}, b"\0" * 5),
    "header.safetensors": safetensors_with({}, length=10 * 2**30),
    "overlap.safetensors": safetensors_with({"a": entry(0, 4), "b": entry(2, 6)}),
    "shape.safetensors": safetensors_with({"a": entry(0, 8, (2**40,))}),
    "empty.safetensors": b"",
    "pickled.npz": pickle.dumps({"a": 1}),
    "empty.npz": b"",
    "weights.h5": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_hostile_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(jdl.Error, match=r"damaged|must be \.safetensors"):
        read_weights(tmp_path / name)


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(jdl.Error, match="plain arrays"):
        read_weights(tmp_path / "o.npz")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(jdl.Error, match="no such file"):
        jdl.weights.load(tmp_path / "none.npz").arrays  # noqa: B018
    with pytest.raises(jdl.Error, match="it has none"):
        jdl.weights.load(tmp_path).arrays  # noqa: B018
    with pytest.raises(jdl.Error, match="There is no run"):
        jdl.weights.load("run:none", root=tmp_path).arrays  # noqa: B018
    with pytest.raises(jdl.Error, match="one version"):
        jdl.weights.load("file.npz", best=True)


def test_a_model_of_the_hub_is_taken_from_its_cache(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(jdl.Error, match=r"some/model .*give the folder's path"):
        jdl.weights.load("hf:some/model").arrays  # noqa: B018
    commit = "a" * 40
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    write_safetensors(snapshot / "model.safetensors", ARRAYS)
    found = jdl.weights.load(f"hf:some/model@{commit}")
    equal(found.arrays)
    assert found.source == f"hf:some/model@{commit}"


SOURCE = """
import optax
import jdl
from jdl.models.mlp import MLP

def run(c):
    train, test = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(MLP(10, (4,))), optax.sgd(0.5))
    return jdl.Run(c, jdl.ema(learner, 0.5), train.shuffled(16, 0), test=test.batches(360))
"""


@pytest.mark.slow
def test_a_run_gives_the_variables_that_it_is_evaluated_with(tmp_path):
    script = tmp_path / "source.py"
    script.write_text(SOURCE)
    _, run, config = load_script(script)
    options = jdl.Options(root=tmp_path / "runs", quiet=True)
    state = jdl.fit(
        run(config(name="source", steps=2, precision="bfloat16")), options, script
    ).state
    weights = jdl.weights.load("run:source", root=tmp_path / "runs")
    traced = jax.eval_shape(lambda: weights.arrays)  # models are often initialized while traced
    assert traced.keys() == weights.arrays.keys()
    equal(weights.arrays, arrays_by_path(state.extra["ema"]))
    assert (state.params["Dense_0"]["kernel"] != weights.arrays["params/Dense_0/kernel"]).any()


ADAPTED = """
import optax
import jdl
from jdl.models.mlp import MLP

def run(c):
    train, _ = jdl.data.digits()
    objective = jdl.lora(jdl.objectives.classify(MLP(10, (4,))), "Dense_0", rank=2, train="Dense_1")
    learner = jdl.descent(jdl.quantize(objective, "^lora/base"), optax.sgd(0.5))
    return jdl.Run(c, learner, train.shuffled(16, 0))
"""


@pytest.mark.slow
def test_a_run_with_adapters_of_quantized_weights_gives_those_of_the_plain_model(tmp_path):
    script = tmp_path / "adapted.py"
    script.write_text(ADAPTED)
    _, run, config = load_script(script)
    adapted = run(config(name="adapted", steps=2))
    result = jdl.fit(adapted, jdl.Options(root=tmp_path / "runs", quiet=True), script)
    variables = adapted.learner.eval_variables(result.state)
    full = jdl.merge_lora(jdl.objectives.dequantize_variables(variables))
    weights = jdl.weights.load(result.folder)
    equal(weights.arrays, arrays_by_path(full))
    model = jdl.pretrained(MLP(10, (4,)), weights)
    model.init(jax.random.key(1), np.ones((1, 8, 8, 1)))


@pytest.mark.parametrize("kind", ["plain", "ema", "schedule_free"])
def test_a_run_without_code_gives_its_arrays_where_no_learner_is_needed(tmp_path, kind):
    train, _ = jdl.data.digits()
    optimizer = optax.sgd(0.5)
    if kind == "schedule_free":
        optimizer = optax.contrib.schedule_free(optimizer, 0.5)
    learner = jdl.descent(
        jdl.objectives.classify(CNN(10, blocks=((2, 1),), dense=(4,), batch_norm=True)), optimizer
    )
    if kind != "plain":
        learner = jdl.ema(learner) if kind == "ema" else jdl.schedule_free(learner)
    run = jdl.Run(jdl.Config(name="own", steps=2), learner, train.shuffled(16, 0))
    result = jdl.fit(run, jdl.Options(root=tmp_path, quiet=True))
    weights = jdl.weights.load(result.folder)
    if kind != "plain":
        with pytest.raises(jdl.Error, match=r"has more than .*jdl.weights.save\(jdl.restore\("):
            weights.arrays  # noqa: B018
        return
    assert weights.source == f"run:{result.folder}"
    variables = {"params": result.state.params, **result.state.model_state}
    equal(weights.arrays, arrays_by_path(variables))
    with pytest.raises(jdl.Error, match=r"not a dict. Write.*jdl.weights.save\(") as refused:
        jdl.pretrained(CNN(10), variables)
    assert len(str(refused.value)) < 250


def fit_on_digits(objective, root):
    """The folder of a run of one step, whose code is not kept."""
    train, _ = jdl.data.digits()
    learner = jdl.descent(objective, optax.sgd(0.5))
    run = jdl.Run(jdl.Config(name="own", steps=1), learner, train.shuffled(16, 0))
    return jdl.fit(run, jdl.Options(root=root, quiet=True)).folder, run


@pytest.mark.slow
def test_a_run_with_frozen_parameters_and_no_code_gives_those_of_the_plain_model(tmp_path):
    frozen = jdl.freeze(jdl.objectives.classify(MLP(10, (4,))), "Dense_0")
    folder, run = fit_on_digits(frozen, tmp_path)
    variables = jdl.restore(folder, run).variables
    assert "frozen" in variables
    weights = jdl.weights.load(folder)
    equal(weights.arrays, arrays_by_path(jdl.merge_frozen(variables)))
    begun = jdl.pretrained(MLP(10, (4,)), weights).init(jax.random.key(1), np.ones((1, 8, 8, 1)))
    equal(arrays_by_path(begun), weights.arrays)


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True])
def test_a_run_with_adapters_and_no_code_is_refused_with_the_way_to_its_weights(
    tmp_path, quantized
):
    objective = jdl.lora(jdl.objectives.classify(MLP(10, (4,))), "Dense_0", rank=2, alpha=2.0)
    found = "jdl.restore(folder, run).variables"
    if quantized:
        objective = jdl.quantize(objective, "^lora/base")
        found = f"jdl.objectives.dequantize_variables({found})"
    folder, run = fit_on_digits(objective, tmp_path)
    file = tmp_path / "file.safetensors"
    cure = f"jdl.weights.save(jdl.merge_lora({found}), {{}})"
    with pytest.raises(jdl.Error, match=re.escape(cure.format('"file.safetensors"'))):
        jdl.weights.load(folder).arrays  # noqa: B018
    eval(cure.format("file"), {"jdl": jdl, "folder": folder, "run": run, "file": file})
    model = jdl.pretrained(MLP(10, (4,)), jdl.weights.load(file))
    model.init(jax.random.key(1), np.ones((1, 8, 8, 1)))


RULES = (
    Rule(
        "h.{}.qkv", ("q_{}", "k_{}"), Layout(lambda x: np.split(x, 2), lambda *p: np.concatenate(p))
    ),
    Rule("h.{}.conv.{}.weight", "block_{}/conv_{}", CONV),
    Rule("head.weight", "head/kernel", LINEAR),
    Rule("unused", None),
)


def test_rules_turn_names_and_layouts_there_and_back():
    draw = np.random.default_rng(0)
    theirs = {
        "h.0.qkv": draw.normal(size=(4, 3)),
        "h.11.conv.2.weight": draw.normal(size=(5, 4, 3, 2)),
        "head.weight": draw.normal(size=(2, 3)),
    }
    ours = to_jdl(theirs | {"unused": np.ones(1)}, RULES)
    assert {name: array.shape for name, array in ours.items()} == {
        "q_0": (2, 3),
        "k_0": (2, 3),
        "block_11/conv_2": (3, 2, 4, 5),
        "head/kernel": (3, 2),
    }
    equal(to_theirs(ours, RULES), theirs)
    with pytest.raises(jdl.Error, match="no rule for the weight other"):
        to_jdl({"other": np.ones(1)}, RULES)
    with pytest.raises(jdl.Error, match="no rule for surplus"):
        to_theirs(ours | {"surplus": np.ones(1)}, RULES)
    with pytest.raises(jdl.Error, match="Two weights belong to q_0"):
        to_jdl(
            {"a.weight": np.ones(1), "b.weight": np.ones(1)},
            (Rule("a.weight", "q_0"), Rule("b.weight", "q_0")),
        )
