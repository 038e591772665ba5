"""Weights of Hugging Face, timm and torchvision give what these libraries compute, to 1e-5.

tests/golden/vision/ is written by scripts/golden_architectures_vision.py. Seen to fail: the padding
of TensorFlow for that of PyTorch, another epsilon of batch and of layer norm, GELU by tanh, a mean
of patches with the class token in it, a layer scale that is added, statistics in each other's
places, kernels turned the wrong way on their way back, a config that is not checked; of ConvNeXt
padded patches, an added layer scale, another epsilon of the stem and of the head, the norm before
the pooling; of MobileNetV3 a soft gate, hard-swish in the squeezing and in all stages, and a ReLU
in the head.
"""

import json
import re
from functools import lru_cache
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.models.efficientnet import EfficientNet, Stage
from jdl.models.vit import ViT
from jdl.types import Error
from jdl.weights.architectures.convnext import convnext
from jdl.weights.architectures.efficientnet import timm_inverted_residuals
from jdl.weights.architectures.resnet import resnet, torchvision_resnet
from jdl.weights.architectures.timm import timm
from jdl.weights.architectures.vit import deit, dinov2, vit
from jdl.weights.rules import to_jdl, to_theirs

GOLDEN = Path(__file__).parent / "golden" / "vision"


def by_name(config, **changes):
    return timm(config)(config, **changes)


STAGES_V2 = Stage(1, 32, 1, 3), Stage(6, 32, 2, 3), Stage(6, 64, 1, 5)
STAGES_V3 = (
    Stage(1, 32, 1, 3, True, nn.relu),
    Stage((4.5, 2.3), 32, 2, 3, False, nn.relu),
    Stage(6, 64, 1, 5),
)
MOBILENET_V3 = {
    "stages": STAGES_V3,
    "activation": nn.hard_swish,
    "symmetric_padding": True,
    "top": 6,
    "hidden": 24,
    "hard_squeeze": True,
}


def small(stages=STAGES_V2, **form):
    model = EfficientNet(5, 0.25, stages=stages, strides=(2, 1, 2, 2), **form)
    return timm_inverted_residuals(model, new_head=False)


MOBILENET = {"squeeze_ratio": 0.0, "activation": nn.relu6, "symmetric_padding": True}
STAGES = ((8, 1), (16, 2))
CASES = {  # a golden, and what reads its config
    "resnet_basic": resnet,
    "resnet_bottleneck": resnet,
    "torchvision_resnet": lambda config: torchvision_resnet(STAGES, True, 5),
    "vit": vit,
    "vit_base": vit,
    "deit": deit,
    "dinov2": dinov2,
    "dinov2_base": dinov2,
    "timm_vit": by_name,
    "timm_deit": by_name,
    "timm_dinov2": by_name,
    "timm_efficientnet": lambda config: small(symmetric_padding=True),
    "timm_tf_efficientnet": lambda config: small(epsilon=1e-3),
    "convnext": convnext,
    "convnext_base": convnext,
    "timm_convnext_tiny": by_name,
    "timm_convnext_atto": by_name,
    "timm_mobilenet_v2": lambda config: small(**MOBILENET),
    "timm_mobilenet_v3": lambda config: small(**MOBILENET_V3),
}
LITTLE_NEW = (
    "resnet_basic",
    "vit_base",
    "dinov2_base",
    "timm_vit",
    "timm_deit",
    "timm_efficientnet",
    "convnext_base",
    "timm_convnext_tiny",
)
FAST_TO_COMPILE = {  # five times as fast
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
WITHOUT_EFFECT = (
    "num_batches_tracked",
    "mask_token",
    "key.bias",
    "pooler.dense.weight",
    "pooler.dense.bias",
)


@lru_cache(1)
def read(case):
    """A golden's architecture, its weights, its images and what the library makes of them."""
    golden = np.load(GOLDEN / f"{case}.npz")
    weights = {k.removeprefix("weights/"): golden[k] for k in golden if k.startswith("weights/")}
    return CASES[case](json.loads(str(golden["config"]))), weights, golden["x"], golden["y"]


def shapes(model, x):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in LITTLE_NEW)) for c in CASES]
)
def test_outputs_are_those_of_the_library(case):
    architecture, weights, x, y = read(case)
    arrays = to_jdl(weights, architecture.rules)
    assert {path: array.shape for path, array in arrays.items()} == shapes(architecture.model, x)
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(architecture.model.apply, compiler_options=FAST_TO_COMPILE)
        out = apply(unflatten_dict(arrays, sep="/"), x)
    np.testing.assert_allclose(out, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("case", CASES)
def test_weights_go_back_to_the_bit(case):
    """But for what has no effect: biases of keys, numbers of batches, and an unread pooler."""
    architecture, weights, _, _ = read(case)
    back = to_theirs(to_jdl(weights, architecture.rules), architecture.rules)
    prefix = f"{case.removesuffix('_base')}." if case.endswith("_base") else ""
    back = {name.removeprefix(prefix): array for name, array in back.items()}
    assert all(name.endswith(WITHOUT_EFFECT) for name in weights.keys() - back.keys())
    for name, array in back.items():
        expected = weights[name].copy()
        if name.endswith("qkv.bias"):
            np.split(expected, 3)[1][:] = 0
        np.testing.assert_array_equal(array, expected, err_msg=name)


PUBLISHED = json.loads(str(np.load(GOLDEN / "published.npz")["json"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_all_names_and_shapes(name):
    config = {"architecture": name, "num_classes": 1000}
    architecture = by_name(config)
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
        ("vit", {"hidden_act": "mish"}),
        ("vit", {"qkv_bias": False}),
        ("deit", {"architectures": ["DeiTForImageClassification"]}),
        ("dinov2", {"use_swiglu_ffn": True}),
        ("convnext", {"hidden_act": "mish"}),
        ("timm_convnext_tiny", {"model_args": {"stem_type": "overlap"}}),
        ("timm_vit", {"global_pool": "avg"}),
        ("timm_vit", {"model_args": {"class_token": False}}),
    ],
)
def test_a_config_of_something_else_is_refused(case, changed):
    config = json.loads(str(np.load(GOLDEN / f"{case}.npz")["config"]))
    with pytest.raises(Error, match=next(iter(changed))):
        CASES[case]({**config, **changed})


def test_the_name_says_padding_and_epsilon():
    pytorch, tensorflow, mobilenet = (
        by_name({"architecture": name, "num_classes": 0}).model
        for name in ("efficientnet_b1", "tf_efficientnet_b1", "mobilenetv2_100")
    )
    assert (pytorch.symmetric_padding, pytorch.epsilon) == (True, 1e-5)
    assert (tensorflow.symmetric_padding, tensorflow.epsilon) == (False, 1e-3)
    assert mobilenet.symmetric_padding
    assert mobilenet.activation is nn.relu6
    mobilenet = by_name({"architecture": "tf_mobilenetv3_large_100", "num_classes": 0}).model
    assert (mobilenet.symmetric_padding, mobilenet.epsilon) == (False, 1e-3)


def test_a_name_that_timm_has_and_jdl_has_not_is_refused():
    with pytest.raises(Error, match="resnet26d"):
        timm({"architecture": "resnet26d"})


def test_a_pooling_that_is_none_is_refused():
    with pytest.raises(Error, match="distilled"):
        shapes(ViT(5, 4, pooling="cls"), np.zeros((1, 8, 8, 3), np.float32))


def test_a_new_head_is_fresh_and_the_old_one_left_out():
    _, weights, x, _ = read("timm_deit")
    config = json.loads(str(np.load(GOLDEN / "timm_deit.npz")["config"]))
    architecture = by_name(config, outputs=3)
    arrays = to_jdl(weights, architecture.rules)
    expected = shapes(architecture.model, x)
    assert expected["params/head/bias"] == (3,)
    fresh = {path for path in expected if re.search(architecture.skip, path)}
    assert {path: array.shape for path, array in arrays.items()} == {
        path: shape for path, shape in expected.items() if path not in fresh
    }
    assert all("head/" in path for path in fresh)
