"""Weights of Hugging Face, timm and torchvision give what these libraries compute, to 1e-5.

tests/golden/vision_*.npz are written by scripts/golden_architectures_vision.py.
"""

import json
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.types import Error
from jdl.weights.architectures.resnet import resnet, torchvision_resnet
from jdl.weights.architectures.timm import timm
from jdl.weights.rules import to_jdl, to_theirs

GOLDEN = Path(__file__).parent / "golden"
STAGES = ((8, 1), (16, 2))
CASES = {  # a golden, and what reads its config
    "resnet_basic": resnet,
    "resnet_bottleneck": resnet,
    "torchvision_resnet_basic": lambda config: torchvision_resnet(STAGES, False, 5),
    "torchvision_resnet_bottleneck": lambda config: torchvision_resnet(STAGES, True, 5),
}


@lru_cache(1)
def read(case):
    """A golden's architecture, its weights, its images and what the library makes of them."""
    golden = np.load(GOLDEN / f"vision_{case}.npz")
    weights = {k.removeprefix("weights/"): golden[k] for k in golden if k.startswith("weights/")}
    return CASES[case](json.loads(str(golden["config"]))), weights, golden["x"], golden["y"]


def shapes(model, x):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_library(case):
    architecture, weights, x, y = read(case)
    arrays = to_jdl(weights, architecture.rules)
    assert {path: array.shape for path, array in arrays.items()} == shapes(architecture.model, x)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(architecture.model.apply)(unflatten_dict(arrays, sep="/"), x)
    np.testing.assert_allclose(out, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("case", CASES)
def test_weights_go_back_to_the_bit(case):
    """Without those that are left out, which have no effect."""
    architecture, weights, _, _ = read(case)
    back = to_theirs(to_jdl(weights, architecture.rules), architecture.rules)
    dropped = {name for name in weights if name not in back}
    assert all(name.endswith("num_batches_tracked") for name in dropped)
    for name, array in back.items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


PUBLISHED = json.loads(str(np.load(GOLDEN / "vision_published.npz")["json"]))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet152")) for name in PUBLISHED],
)
def test_published_sizes_have_all_names_and_shapes(name):
    config = {"architecture": name, "num_classes": 1000}
    architecture = timm(config)(config)
    weights = {k: np.broadcast_to(np.float32(0), shape) for k, shape in PUBLISHED[name].items()}
    arrays = to_jdl(weights, architecture.rules)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    assert {path: a.shape for path, a in arrays.items()} == shapes(architecture.model, images)


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        ("resnet_basic", {"hidden_act": "gelu"}),
        ("resnet_basic", {"downsample_in_first_stage": True}),
        ("resnet_basic", {"embedding_size": 12}),
        ("resnet_basic", {"architectures": ["ResNetBackbone"]}),
    ],
)
def test_a_config_of_something_else_is_refused(case, changed):
    config = json.loads(str(np.load(GOLDEN / f"vision_{case}.npz")["config"]))
    with pytest.raises(Error, match=next(iter(changed))):
        CASES[case]({**config, **changed})


def test_a_name_that_timm_has_and_jdl_has_not_is_refused():
    with pytest.raises(Error, match="resnet26d"):
        timm({"architecture": "resnet26d"})
