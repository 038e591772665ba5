"""CLIP of Hugging Face gives the vectors and the similarities that transformers computes, to 1e-5.

tests/golden/vision/clip*.npz are written by scripts/golden_architectures_vision.py. Seen to fail:
the vector of the first token, attention to what comes after, GELU by tanh, a scaled norm of the
embeddings, another epsilon, the end of older files taken by its number, only one tower made, and a
scale of the objective's own beside that of the model.
"""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from test_architectures_vision import FAST_TO_COMPILE, GOLDEN, shapes

import jdl
from jdl.models.clip import CLIP, TextTower
from jdl.models.convnext import ConvNeXt
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.weights.architectures.clip import clip
from jdl.weights.load import arrays_by_path
from jdl.weights.rules import to_jdl, to_theirs

CASES = ("clip", "clip_older")
KEY = jax.random.key(0)


@cache
def golden(case):
    """The config, the weights by name, and the inputs and outputs."""
    arrays = dict(np.load(GOLDEN / f"{case}.npz"))
    weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if "/" in k}
    return json.loads(str(arrays["config"])), weights, arrays


@cache
def loaded(case):
    """The model, and its variables from the file."""
    config, weights, _ = golden(case)
    architecture = clip(config)
    arrays = to_jdl(weights, architecture.rules)
    return architecture.model, unflatten_dict(arrays, sep="/")


def computed(model, variables, x):
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.apply, compiler_options=FAST_TO_COMPILE)(variables, x)


def close(out, expected):
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_those_of_transformers(case):
    model, variables = loaded(case)
    arrays = golden(case)[2]
    found = {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}
    assert found == shapes(model, arrays["x"]) == shapes(model, arrays["y"])
    images = computed(model, variables, arrays["x"])
    texts = computed(model, variables, arrays["y"])
    close(images, arrays["images"])
    close(texts, arrays["texts"])
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    close(np.exp(variables["params"]["log_scale"]) * unit[0] @ unit[1].T, arrays["logits"])


@pytest.mark.parametrize("case", CASES)
def test_weights_go_back_to_the_bit(case):
    """But for the biases of keys, which have no effect."""
    config, weights, _ = golden(case)
    rules = clip(config).rules
    back = to_theirs(to_jdl(weights, rules), rules)
    assert all(name.endswith("k_proj.bias") for name in weights.keys() - back.keys())
    for name, array in back.items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


@pytest.fixture
def folder(tmp_path):
    """A folder as that of a repository."""
    safetensors = pytest.importorskip("safetensors.numpy")
    config, weights, _ = golden("clip")
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    safetensors.save_file(weights, source / "model.safetensors")
    return source


@pytest.mark.slow
def test_fine_tuned_by_contrastive_with_its_own_scale_and_given_back(tmp_path, folder):
    """The loss is that of its own similarities, and all of it is trained, the scale too."""
    _, weights, arrays = golden("clip")
    objective = jdl.objectives.contrastive(jdl.weights.from_pretrained(folder))
    batch = {"x": jnp.asarray(arrays["x"][:2]), "y": jnp.asarray(arrays["y"])}
    objective.check(batch, {})
    learner = jdl.descent(objective, optax.sgd(0.1))
    state = jax.jit(learner.init)(KEY, batch)
    assert "log_scale" not in state.params
    with jax.default_matmul_precision("highest"):
        after, metrics = jax.jit(learner.step, compiler_options=FAST_TO_COMPILE)(state, batch)
    logits = arrays["logits"][:2].astype(np.float64)
    nats = [np.log(np.exp(rows).sum(1)) - np.diag(rows) for rows in (logits, logits.T)]
    assert metrics["loss"].value() == pytest.approx(np.mean(nats), rel=1e-5)
    before, trained = (arrays_by_path({"params": s.params["model"]}) for s in (state, after))
    unmoved = [path for path, array in trained.items() if np.array_equal(array, before[path])]
    assert unmoved == []

    variables = {"params": after.params["model"]}
    jdl.weights.save_pretrained(variables, tmp_path / "tuned", folder)
    written = jdl.weights.load(tmp_path / "tuned").arrays
    assert {name: a.shape for name, a in written.items()} == {
        n: a.shape for n, a in weights.items()
    }
    again = to_jdl(written, clip(golden("clip")[0]).rules)
    assert again.keys() == trained.keys()
    for path, array in again.items():
        np.testing.assert_array_equal(array, trained[path], path)


def test_a_temperature_takes_the_place_of_its_own():
    model, _ = loaded("clip")
    objective = jdl.objectives.contrastive(model, temperature=0.5)
    batch = {name: golden("clip")[2][name][:2] for name in "xy"}
    found = jax.jit(lambda: objective.init(KEY, batch)["params"]["model"]["log_scale"])()
    assert float(found) == pytest.approx(np.log(2))


def test_the_image_tower_alone_with_a_new_head(folder):
    """What the head reads is what the projection there reads."""
    _, weights, arrays = golden("clip")
    model = jdl.weights.from_pretrained(folder, outputs=4)
    assert isinstance(model.model, ViT)
    variables = jax.jit(model.init)(KEY, arrays["x"])
    assert variables["params"]["head"]["kernel"].shape == (24, 4)
    backbone = model.model.clone(outputs=None)
    features = computed(backbone, variables, arrays["x"])
    close(features @ weights["visual_projection.weight"].T, arrays["images"])


def test_a_fresh_one_has_the_variables_of_both_towers_whatever_it_is_given():
    sizes = TransformerConfig(width=8, depth=1, heads=2, max_length=6, rotary=False)
    model = CLIP(ViT(None, 4, sizes), TextTower(9, sizes), 5, (8, 8, 1))
    given = np.zeros((2, 8, 8, 1), np.float32), np.zeros((3, 4), np.int32)
    by_image, by_text = (shapes(model, x) for x in given)
    assert by_image == by_text
    assert by_image["params/text_projection/kernel"] == (8, 5)
    scale = jax.jit(lambda x: model.init(KEY, x)["params"]["log_scale"])(given[1])
    assert float(scale) == pytest.approx(np.log(1 / 0.07))


def test_images_of_another_size_are_refused_with_the_right_one():
    model, variables = loaded("clip")
    image = np.zeros((1, 24, 24, 3), np.float32)
    with pytest.raises(jdl.Error, match=r"as images of 12 x 12 pixels have them, .* 24 x 24 have"):
        jax.eval_shape(model.apply, variables, image)


def test_a_tower_may_take_no_mask():
    sizes = TransformerConfig(width=8, depth=1, heads=2, max_length=6, rotary=False)
    model = CLIP(ConvNeXt(None, ((4, 1),), 2), TextTower(9, sizes), 5, (8, 8, 1))
    image = np.zeros((2, 8, 8, 1), np.float32)
    apply = jax.eval_shape(lambda x: model.init_with_output(KEY, x, mask=np.ones(2))[0], image)
    assert apply.shape == (2, 5)


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        (None, {"architectures": ["CLIPForImageClassification"]}),
        ("text_config", {"hidden_act": "mish"}),
        ("text_config", {"eos_token_id": [29, 30]}),
        ("vision_config", {"num_channels": 4}),
    ],
)
def test_a_config_of_something_else_is_refused(part, changed):
    config = golden("clip")[0]
    config = {**config, part: {**config[part], **changed}} if part else {**config, **changed}
    with pytest.raises(jdl.Error, match=next(iter(changed))):
        clip(config)


def test_the_second_config_of_a_tower_in_older_files_counts():
    model = clip({**golden("clip")[0], "text_config_dict": {"eos_token_id": 2}}).model
    assert model.text.end is None
    assert clip({**golden("clip")[0], "text_config_dict": None}).model.text.end == 29
