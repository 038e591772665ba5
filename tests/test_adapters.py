"""Adapters of PEFT: the same outputs from its files, and the same files from the adapters.

tests/golden/peft/ is written by scripts/golden_peft.py. PEFT 0.21.2 computes the same from the
folders that the first test writes: that was seen once (0 to 4e-7 of the largest); here names,
shapes and numbers are held. Seen to fail: with a backbone's prefix in names, without a module's own
alpha, without rank stabilization, with the parts of a fused matrix in each other's rows, norms of 1
for its keys, kernels of convolutions turned, and a pooler that is not asked for; of IA3 with
factors of inputs read as those of outputs, and with queries that have those of keys; of CLIP as a
backbone of another class, of `contrastive` without the name of its network, and with the ranks of
the model for those of the file; a module that has an adapter and is written whole, configs of
another type.
"""

import json
import re
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from test_architectures_vision import FAST_TO_COMPILE

import jdl
from jdl.learners.compilation import jit_init
from jdl.objectives import pretrained_model
from jdl.objectives.model_call import ModelObjective
from jdl.objectives.pretrained_model import leave_fresh, record_loaded
from jdl.weights import from_pretrained, load_adapters, save_adapters
from jdl.weights.files import sha256_of

GOLDEN = Path(__file__).parent / "golden"
NEW_HEAD = {"bert_new_head": {"outputs": 2, "pool": "first"}, "bert_base": {"pool": False}}
TOKENS = {"x": np.ones((1, 4), np.int32)}
BASE, FILE = "base_model.model.", "adapter_model.safetensors"
NAMES = sorted(path.stem for path in (GOLDEN / "peft").glob("*.npz"))


@cache
def golden(name):
    """The adapters' golden, and that of their base."""
    arrays = dict(np.load(GOLDEN / "peft" / f"{name}.npz"))
    return arrays, dict(np.load(GOLDEN / f"{arrays['base']}.npz"))


def weights(arrays):
    return {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}


def folders(tmp_path, name, **config):
    """A folder of the base model, and one of the adapters, as they are saved there."""
    adapters, base = golden(name)
    source, folder = tmp_path / "base", tmp_path / "adapters"
    for path, file, arrays, content in (
        (source, "model", base, json.loads(str(base["config"]))),
        (folder, "adapter_model", adapters, json.loads(str(adapters["config"])) | config),
    ):
        path.mkdir()
        save_file(weights(arrays), path / f"{file}.safetensors")
        text = "config.json" if file == "model" else "adapter_config.json"
        (path / text).write_text(json.dumps(content))
    return source, folder


def batch_of(base):
    if "x" in base:
        return {"x": jnp.asarray(base["x"])}
    names = {"input_ids": "x", "token_type_ids": "token_type"}
    batch = {ours: jnp.asarray(base[k]) for k, ours in names.items() if k in base}
    if "attention_mask" in base:
        batch["length"] = jnp.asarray(base["attention_mask"]).sum(1)
    return batch


def started(objective, batch):
    run = jax.jit(objective.init, compiler_options=FAST_TO_COMPILE)
    return run(jax.random.key(0), batch)


def drawn(variables):
    """Variables with other trained numbers."""
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), variables["params"]
    )
    return {**variables, "params": params}


def adapted(tmp_path, name):
    """Variables with adapters whose outputs are PEFT's, the base's folder, and the head's class."""
    source, folder = folders(tmp_path, name)
    model = ModelObjective(from_pretrained(source, **NEW_HEAD.get(name, {})))
    head = str(golden(name)[0]["class"]) if name == "bert_new_head" else None
    objective = load_adapters(model, folder, source, head)
    batch = batch_of(golden(name)[1])

    @partial(jax.jit, compiler_options=FAST_TO_COMPILE)
    def run():
        variables = objective.init(jax.random.key(0), batch)
        plain = (jdl.merge_ia3 if "ia3" in variables else jdl.merge_lora)(variables)
        return variables, model.outputs(plain, batch, jax.random.key(1), False)[0]

    with jax.default_matmul_precision("highest"):
        variables, out = run()
    out, expected = np.asarray(out), golden(name)[0]["out"]
    if out.ndim == 3 and "length" in batch:
        real = np.arange(out.shape[1]) < np.asarray(batch["length"])[:, None]
        out, expected = out[real], expected[real]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return variables, source, head


def products(folder):
    """What adapters add to each matrix, by PEFT's rules, and all other arrays."""
    config = json.loads((folder / "adapter_config.json").read_text())
    arrays = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, b in arrays.items():
        if key.endswith("lora_B.weight"):
            a = arrays[key.replace("lora_B", "lora_A")]
            alphas = config.get("alpha_pattern") or {}
            named = (x for name, x in alphas.items() if name in key)
            alpha = next(named, config["lora_alpha"])
            rank = np.sqrt(len(a)) if config.get("use_rslora") else len(a)
            product = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
            found[key] = product * np.float32(alpha / rank)
        elif not key.endswith("lora_A.weight"):
            found[key] = b
    return found, config


@pytest.mark.parametrize("name", NAMES)
def test_the_same_outputs_and_back(tmp_path, name):
    variables, source, head = adapted(tmp_path, name)
    save_adapters(variables, tmp_path / "again", source, head)
    (expected, given), (found, config) = map(products, (tmp_path / "adapters", tmp_path / "again"))
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        if key.endswith("key.bias"):  # has no effect
            continue
        np.testing.assert_allclose(found[key], array, rtol=1e-6, atol=1e-6, err_msg=key)
    for option in ("peft_type", "use_dora", "fan_in_fan_out"):
        assert config.get(option) == given.get(option)
    named = {module.rpartition(".")[0] for module in found if not re.search("lora_|ia3_l", module)}
    assert {f"base_model.model.{module}" for module in config["modules_to_save"] or ()} == named


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "options", "wrap"),
    [
        ("vision/clip", {}, ModelObjective),
        ("vision/clip", {}, jdl.objectives.contrastive),
        ("transformers/bert_base", {"pool": True}, jdl.objectives.contrastive),
    ],
)
def test_adapters_of_two_towers_and_of_a_model_with_a_scale_beside_it(
    tmp_path, base, options, wrap
):
    """The names in PEFT's file are those of the model alone, and they come back to their places."""
    arrays = dict(np.load(GOLDEN / f"{base}.npz"))
    source = tmp_path / "base"
    source.mkdir()
    save_file(weights(arrays), source / "model.safetensors")
    (source / "config.json").write_text(str(arrays["config"]))
    objective = wrap(from_pretrained(source, **options))
    images = {"x": arrays["x"], "y": arrays["y"]} if "y" in arrays else {}
    batch = {"x": TOKENS["x"], "y": TOKENS["x"], **images}
    variables = drawn(started(jdl.lora(objective, "query", 2), batch))
    save_adapters(variables, tmp_path / "written", source)
    modules = {name.rpartition(".lora_")[0] for name in load_file(tmp_path / "written" / FILE)}
    theirs = {k.removesuffix(".weight") for k in weights(arrays)}
    assert modules == {f"{BASE}{k}" for k in theirs if k.endswith(("query", "q_proj"))}
    after = started(load_adapters(objective, tmp_path / "written", source), batch)
    jax.tree.map(np.testing.assert_array_equal, after, variables)
    trained = drawn(started(jdl.lora(objective, "query", train="log_scale|norm/bias"), batch))
    if "log_scale" in str(jax.tree.structure(trained["params"])):
        with pytest.raises(jdl.Error, match="_scale"):
            save_adapters(trained, tmp_path / "new", source)


@pytest.mark.slow
def test_their_folder_is_recorded_and_they_are_arguments_of_init_as_weights_are(tmp_path):
    source, folder = folders(tmp_path, "gpt2")  # of several ranks
    objective = load_adapters(ModelObjective(from_pretrained(source)), folder, source)
    key = jax.random.key(0)
    with record_loaded() as loaded:
        shapes = jax.eval_shape(objective.init, key, TOKENS)
        with pretrained_model._set(pretrained_model._provider, None):  # nothing else gives them
            state = jit_init(objective.init)(key, TOKENS)
    records = [one.record() for one in loaded.values()]
    assert [one["source"] for one in records] == [str(source), str(folder)]
    files = [folder / "adapter_config.json", folder / FILE]
    assert records[1]["sha256"] == sha256_of(files) != records[0]["sha256"]
    paths = flatten_dict(state, sep="/")
    assert {paths[path].shape[1] for path in records[1]["names"] if "lora_a" in path} == {2, 3}
    jax.tree.map(np.testing.assert_array_equal, state, objective.init(key, TOKENS))
    with leave_fresh():
        assert jax.tree.map(jnp.shape, objective.init(key, TOKENS)) == jax.tree.map(
            jnp.shape, shapes
        )


@pytest.mark.parametrize("dora", [False, True])
def test_queries_and_values_alone_of_a_matrix_that_is_one_there(tmp_path, dora):
    """Each has its own ranks, and comes back with them; the keys have an adapter of zeros."""
    source, _ = folders(tmp_path, "gpt2")
    model = ModelObjective(from_pretrained(source))
    before = jdl.lora(model, "query|value", rank=2, dora=dora, train="stack/norm")
    variables = started(before, TOKENS)
    variables = drawn(variables)
    save_adapters(variables, tmp_path / "written", source)
    after = started(load_adapters(model, tmp_path / "written", source), TOKENS)
    assert after["lora"]["scale"] == variables["lora"]["scale"]
    found, given = (flatten_dict(v["params"], sep="/") for v in (after, variables))
    for path, array in given.items():
        np.testing.assert_array_equal(found[path], array, path)
    assert all("key/kernel" in path for path in found.keys() - given.keys())
    plain, expected = jdl.merge_lora(after)["params"], jdl.merge_lora(variables)["params"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), plain, expected)


def test_factors_that_no_module_of_peft_has_are_refused(tmp_path):
    """One has a factor for each output, or for each input, of its one matrix."""
    source, _ = folders(tmp_path, "gpt2")
    model = ModelObjective(from_pretrained(source))
    for outputs, inputs, message in (
        ("value", "value", "inputs and of outputs"),
        (None, "value", "the inputs of .*query.* have other factors"),
    ):
        variables = started(jdl.ia3(model, outputs, inputs), TOKENS)
        with pytest.raises(jdl.Error, match=f"(?i){message}"):
            save_adapters(variables, tmp_path / "new", source)
    assert not (tmp_path / "new").exists()
    with pytest.raises(jdl.Error, match="give one pattern"):
        jdl.ia3(model, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", ["LORA"]),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
        ("trainable_token_indices", [3]),
        ("use_qalora", True),
        ("of_tomorrow", 0.5),
    ],
)
def test_other_options_are_refused_with_their_value(tmp_path, option, value):
    source, folder = folders(tmp_path, "bert", **{option: value})
    with pytest.raises(jdl.Error, match=re.escape(f"{option}={value!r}")):
        load_adapters(ModelObjective(from_pretrained(source)), folder, source)


def test_a_config_that_is_a_list_is_refused(tmp_path):
    source, folder = folders(tmp_path, "bert")
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(jdl.Error, match="cannot be read: it is no JSON object"):
        load_adapters(ModelObjective(from_pretrained(source)), folder, source)


def test_a_module_that_is_adapted_and_trained_in_full_is_refused(tmp_path):
    source, _ = folders(tmp_path, "bert")
    model = jdl.lora(ModelObjective(from_pretrained(source)), "query", train="query/bias")
    variables = started(model, batch_of(golden("bert")[1]))
    with pytest.raises(jdl.Error, match=r"attention\.self\.query .*adapter.*in full"):
        save_adapters(variables, tmp_path / "new", source)
    assert not (tmp_path / "new").exists()


def renamed(folder, old, new):
    """Adapters with other names, or of other sizes."""
    path = folder / "adapter_model.safetensors"
    save_file({k.replace(old, new): v for k, v in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("self.query.lora_A.weight", "self.query.lora_embedding_A", "of an embedding table"),
        ("self.query.lora_A", "self.query.lora_C", "of an embedding table or a bias"),
        ("attention.self.query", "intermediate.dense", r"lora_b \[2, 16\], and .* \[2, 24\]"),
        ("self.query", "self.other", "self.other has no place"),
        ("layer.1", "layer.2", "block_2/attention/query/kernel/lora_a.*no such parameter"),
        ("classifier.weight", "qa.weight", "trained module qa"),
    ],
)
def test_adapters_without_a_place_are_refused(tmp_path, old, new, message):
    source, folder = folders(tmp_path, "bert")
    renamed(folder, old, new)
    model, batch = ModelObjective(from_pretrained(source)), batch_of(golden("bert")[1])
    with pytest.raises(jdl.Error, match=message):
        jax.eval_shape(load_adapters(model, folder, source).init, jax.random.key(0), batch)


@pytest.mark.slow
def test_a_new_head_has_the_name_of_its_class(tmp_path):
    source, folder = folders(tmp_path, "bert_new_head")
    batch = batch_of(golden("bert_new_head")[1])
    model = ModelObjective(from_pretrained(source, outputs=2, pool="first"))
    with pytest.raises(jdl.Error, match="trained module bert"):
        load_adapters(model, folder, source)
    mean = ModelObjective(from_pretrained(source, outputs=2))
    variables = started(jdl.lora(mean, "query", train="head"), batch)
    with pytest.raises(jdl.Error, match="no name for params/head/bias, params/head/kernel"):
        save_adapters(variables, tmp_path / "new", source)
    with pytest.raises(jdl.Error, match="params/pooler/bias, params/pooler/kernel, which the"):
        save_adapters(variables, tmp_path / "new", source, "BertForSequenceClassification")
    tables = jdl.lora(ModelObjective(from_pretrained(source)), "table")
    with pytest.raises(jdl.Error, match="embedding table"):
        save_adapters(started(tables, batch), tmp_path / "new", source)
    assert not (tmp_path / "new").exists()
    small = jdl.objectives.quantize_variables(variables, "^lora/base/.*query/kernel")
    with pytest.raises(
        jdl.Error, match=r"no weights params/stack/.*query/kernel below .*quantized"
    ):
        save_adapters(small, tmp_path / "new", source)
    with pytest.raises(jdl.Error, match="exists already"):
        save_adapters(variables, folder, source)
