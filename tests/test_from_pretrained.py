"""Folders of Hugging Face as pretrained models: new heads, old names, and all that is refused.

The outputs of these models are compared in tests/test_architectures_texts.py. Seen to fail: without
`skip` for a new head, without the rules of the pooler, of older names and of names without a
prefix, with NumPy's arrays in a trace, `rope_scaling` and `max_length` ignored, no check of the
window, a split that is no `Error`, and decoders that begin with their end token or with the one in
config.json before that of generation_config.json.
"""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_architectures_texts import golden

import jdl
from jdl.layers import llama3_rotary_frequencies, rotary_frequencies
from jdl.models.encoder_decoder import EncoderDecoder
from jdl.objectives import seq2seq
from jdl.weights.architectures.architecture import value
from jdl.weights.from_pretrained import architecture_of, from_pretrained

safetensors = pytest.importorskip("safetensors.numpy")
BERT_TABLE = "bert.embeddings.word_embeddings.weight"
C_ATTN = "transformer.h.0.attn.c_attn.weight"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


SOME_BLOCKS = {"layer_types": ["full_attention", "sliding_attention"]}
BEFORE_5 = {"layer_types": None, "max_window_layers": 1}  # transformers 4 does not write the types


def folder_of(tmp_path, name, weights=None, **config):
    """A folder like that of a golden model, with other weights or another config."""
    given, arrays, _ = golden(name)
    (tmp_path / "config.json").write_text(json.dumps({**given, **config}))
    safetensors.save_file(arrays if weights is None else weights, tmp_path / "model.safetensors")
    return tmp_path


def loaded(folder, **changes):
    """What a folder's model loads, without a compilation."""
    model = from_pretrained(folder, **changes)
    inputs = [np.ones((1, 4), np.int32)] * (2 if isinstance(model.model, EncoderDecoder) else 1)
    shapes = jax.eval_shape(model.model.init, jax.random.key(0), *inputs)
    return model.load(flatten_dict(dict(shapes), sep="/"))


def without(weights, name):
    return {key: array for key, array in weights.items() if key != name}


@pytest.mark.parametrize(
    ("name", "pool"),
    [("bert_masked", None), ("roberta_masked", "first"), ("distilbert_texts", False)],
)
def test_a_new_head_is_fresh(tmp_path, name, pool):
    pooler = ["pooler"] if pool == "first" else []
    skip = "pooler" if pooler else None
    found = loaded(folder_of(tmp_path, name), skip=skip, outputs=4, pool=pool)
    assert {path.split("/")[1] for path in found.fresh} == {"head", *pooler}
    assert not any("head" in path or "transform" in path for path in found.arrays)


def test_the_pooler_of_bert_is_of_the_backbone(tmp_path):
    found = loaded(folder_of(tmp_path, "bert_base"), outputs=4, pool="first")
    assert [path.split("/")[1] for path in found.fresh] == ["head", "head"]
    assert "params/pooler/kernel" in found.arrays


def test_an_objective_takes_the_model_while_it_is_traced(tmp_path):
    """`check` initializes and evaluates within one trace, where tokens index loaded tables."""
    model = from_pretrained(folder_of(tmp_path, "bert_base"), outputs=3)
    objective = jdl.freeze(jdl.objectives.classify(model), "tokens|stack")
    rows = np.zeros((4, 2), np.int32)
    spec = jdl.data.arrays(x=rows, y=rows[:, 0]).batches(4).spec
    objective.check(spec, {})
    trained = jax.eval_shape(objective.init, jax.random.key(0), spec)["params"]
    assert trained["head"]["kernel"].shape == (16, 3)
    assert trained.keys() == {"head"}


def test_older_names_are_known(tmp_path):
    """Norms with gamma and beta, and a head's file with the head of another task."""
    _, weights, _ = golden("bert_masked")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in weights.items()
    }
    extra = {"cls.seq_relationship.weight": np.ones((2, 16), np.float32)}
    new = loaded(folder_of(tmp_path, "bert_masked"))
    found = loaded(folder_of(tmp_path, "bert_masked", {**old, **extra}))
    assert found.arrays.keys() == new.arrays.keys()
    for path, array in found.arrays.items():
        np.testing.assert_array_equal(array, new.arrays[path])


def test_names_without_the_prefix(tmp_path):
    weights = {k.removeprefix("transformer."): v for k, v in golden("gpt2")[1].items()}
    assert len(loaded(folder_of(tmp_path, "gpt2", weights)).arrays) == 34


@pytest.mark.parametrize(
    ("name", "key", "change", "message"),
    [
        ("bert_masked", BERT_TABLE, None, "no weights for params/tokens/table"),
        ("bert_masked", BERT_TABLE, np.transpose, r"params/tokens/table \(float32\[16, 31\]"),
        ("bert_masked", "bert.adapter.weight", np.ones_like, "no rule for the weight bert.adapter"),
        ("bert_masked", BERT_TABLE[5:], np.copy, "Two weights belong to params/tokens/table"),
        ("gpt2", C_ATTN, lambda x: x[:, :-1], r"c_attn.weight \(16, 47\) has another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, name, key, change, message):
    """One is missing, transposed, added, there under two names, or truncated."""
    weights = dict(golden(name)[1])
    array = weights.pop(key, np.ones((31, 16), np.float32))
    if change is not None:
        weights[key] = np.ascontiguousarray(change(array))
    with pytest.raises(jdl.Error, match=message):
        loaded(folder_of(tmp_path, name, weights))


@pytest.mark.parametrize(
    ("name", "config", "changes", "message"),
    [
        ("gpt2", {"model_type": "gptx"}, {}, "model_type='gptx'"),
        ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, {}, "ForSequence"),
        ("gpt2", {"activation_function": "mish"}, {}, "activation_function='mish'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {}, "scale_attn_by_inverse"),
        ("gpt2", {}, {"outputs": 3}, "has no outputs to change; it has dropout, remat"),
        ("bert_texts", {}, {"pool": "first"}, "give outputs too"),
        ("bert_texts", {"position_embedding_type": "relative_key"}, {}, "relative_key"),
        ("roberta_texts", {"pad_token_id": 0}, {}, "pad_token_id=0"),
        ("t5", {"feed_forward_proj": "gated-mish"}, {}, "feed_forward_proj='gated-mish'"),
        ("t5", {"architectures": ["T5EncoderModel"]}, {}, "T5EncoderModel"),
        ("whisper", {"decoder_ffn_dim": 24}, {}, "decoder_ffn_dim=24"),
        ("whisper", {"scale_embedding": True}, {}, "scale_embedding=True"),
        ("whisper", {"apply_spec_augment": True}, {}, "apply_spec_augment=True"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, {}, "rope_type='yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, {}, "no factor"),
        ("llama", {"attention_bias": True}, {}, "attention_bias=True"),
        ("llama", {}, {"max_length": 33}, "max_length 33 is above"),
        ("qwen2_window", SOME_BLOCKS, {}, "sliding_window=3 in 1 of 2 blocks"),
        ("qwen2_window", BEFORE_5, {}, "sliding_window=3 in 1 of 2 blocks"),
    ],
)
def test_forms_that_jdl_lacks_are_refused(tmp_path, name, config, changes, message):
    with pytest.raises(jdl.Error, match=message):
        from_pretrained(folder_of(tmp_path, name, **config), **changes)


def test_the_head_of_t5(tmp_path):
    """Untied and unscaled in T5 v1.1, in the config.json of transformers 4 and of 5; else tied."""
    older = {"scale_decoder_outputs": None, "tie_word_embeddings": False}
    given = {key: x for key, x in {**golden("t5_v1_1")[0], **older}.items() if x is not None}
    for config in (given, golden("t5_v1_1")[0], golden("mt5")[0]):
        model = architecture_of(config).model
        assert (model.tied, model.logits_scale) == (False, 1)
    model = architecture_of(golden("t5")[0]).model
    assert (model.tied, model.logits_scale) == (True, 0.25)
    with pytest.raises(jdl.Error, match="no weights for params/head/kernel"):
        loaded(folder_of(tmp_path, "mt5", without(golden("mt5")[1], "lm_head.weight")))


T5_TOKENS = {"eos_token_id": 1, "decoder_start_token_id": 0}


@pytest.mark.parametrize(
    ("config", "generation", "given", "start", "eos"),
    [
        (T5_TOKENS, None, {}, 0, 1),
        (T5_TOKENS, {"decoder_start_token_id": 5, "eos_token_id": [7]}, {}, 5, 7),
        (T5_TOKENS, {"decoder_start_token_id": None, "eos_token_id": None}, {}, 0, 1),
        (T5_TOKENS, {"eos_token_id": [1, 2]}, {"eos_id": 2, "start": 3}, 3, 2),
    ],
)
def test_a_decoder_begins_and_ends_as_its_files_say(
    tmp_path, config, generation, given, start, eos
):
    folder = folder_of(tmp_path, "t5", **config)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    objective = seq2seq(from_pretrained(folder), **given)
    assert (objective.start, objective.eos_id) == ((start,), eos)


def test_a_decoder_whose_files_name_no_tokens_asks_for_them(tmp_path):
    model = from_pretrained(folder_of(tmp_path, "t5", eos_token_id=[1, 2]))
    with pytest.raises(jdl.Error, match=r"eos_id=tokenizer.eos_id: .* name none, or several"):
        seq2seq(model)
    with pytest.raises(jdl.Error, match=r"no decoder_start_token_id in .*: give start="):
        seq2seq(model, eos_id=1)
    with pytest.raises(jdl.Error, match="it has no default"):
        seq2seq(model.model)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(jdl.Error, match=r"config\.json beside the weights"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(jdl.Error, match="cannot be read"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "max_length", "window"),
    [
        ("mistral", {"sliding_window": 8}, 9, 8),
        ("mistral", {"sliding_window": 8}, 8, None),
        ("mistral", {"sliding_window": None}, 9, None),
        ("qwen2_window", {}, 9, 3),
        ("qwen2_window", {"use_sliding_window": False}, 9, None),
        ("qwen2_window", {"layer_types": ["full_attention"] * 2}, 9, None),
        ("qwen2_window", SOME_BLOCKS, 3, None),
        ("qwen2_window", {**BEFORE_5, "max_window_layers": 0}, 9, 3),
        ("qwen2_window", {**BEFORE_5, "max_window_layers": 2}, 9, None),
    ],
)
def test_a_window_that_is_never_left_is_no_window(tmp_path, name, changes, max_length, window):
    model = from_pretrained(folder_of(tmp_path, name, **changes), max_length=max_length)
    assert (model.max_length, model.config.window) == (max_length, window)


@pytest.mark.parametrize("scaling", [{"rope_scaling": LLAMA3}, {"rope_parameters": LLAMA3}])
def test_both_forms_of_the_scaling_of_rope(tmp_path, scaling):
    """That of files before and since transformers 5; and the three ranges of frequencies."""
    folder = folder_of(tmp_path, "llama", **{"rope_parameters": None, "rope_theta": 5e5, **scaling})
    found = from_pretrained(folder).config.rotary_frequencies(64)
    options = {name: x for name, x in LLAMA3.items() if name != "rope_type"}
    np.testing.assert_array_equal(found, llama3_rotary_frequencies(64, 5e5, **options))
    ratio = np.asarray(found / rotary_frequencies(64, 5e5))
    assert ratio[0] == 1
    assert ratio[-1] == 1 / 8
    assert ((ratio > 1 / 8) & (ratio < 1)).sum() > 1


def test_a_number_in_quotes_is_refused():
    with pytest.raises(jdl.Error, match="has n_layer in quotes, '2'"):
        value({"n_layer": "2"}, "n_layer")
