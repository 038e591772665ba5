"""Structured pruning: a smaller model with equal outputs, where what went was 0.

Seen to fail: with the first units kept instead of the largest, with BatchNorm's statistics left
whole, and with grouped queries, or a gate, that were not cut with their keys and values, or units;
with 8 units of weights for a model of 4.
"""

import re
from dataclasses import replace
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import jdl
from jdl.inspect.cost import operations
from jdl.models.bert import BERT
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.lenet import LeNet5
from jdl.models.mlp import MLP
from jdl.models.resnet import ResNet
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.weights import prune_units

IMAGE, TOKENS = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jnp.arange(10).reshape(2, 5)
SMALL = TransformerConfig(width=16, depth=1, heads=4, mlp_width=6)
GROUPED = TransformerConfig(width=16, depth=1, heads=4, kv_heads=2, gated=True, query_key_norm=True)
STAGES = ((4, 1), (6, 2))
DENSE, FORWARD = (r"Dense_[01]/(kernel|bias)", 1), (r"feed_forward/in/(kernel|bias)", 1)
CASES = {  # model, inputs, and the patterns of what half of the units are 0 in, with their widths
    "MLP": (MLP(3, (8, 6)), (IMAGE,), [DENSE]),
    "MLP without biases": (MLP(3, (8, 6), use_bias=False), (IMAGE,), [DENSE]),
    "CNN": (CNN(3, ((4, 1), (6, 2)), dense=(8,)), (IMAGE,), [(r"Conv_\d/", 1), (r"Dense_0/", 1)]),
    "CNN, BatchNorm": (
        CNN(3, ((4, 2), (6, 1)), dense=(), batch_norm=True),
        (IMAGE,),
        [(r"BatchNorm_\d/(scale|bias)", 1)],
    ),
    "CNN, encoder": (CNN(None, ((4, 2), (6, 1))), (IMAGE,), [(r"Conv_[01]/", 1)]),
    "ResNet": (ResNet(3, STAGES), (IMAGE,), [(r"Block_\d/ConvNorm_0/.*(scale|bias)", 1)]),
    "ResNet, bottlenecks": (
        ResNet(3, STAGES, bottleneck=True),
        (IMAGE,),
        [(r"Block_\d/ConvNorm_[01]/.*(scale|bias)", 1)],
    ),
    "GPT": (GPT(20, replace(SMALL, depth=2)), (TOKENS,), [FORWARD, (r"value/", 4)]),
    "BERT": (BERT(20, SMALL, outputs=3), (TOKENS,), [FORWARD, (r"value/", 4)]),
    "GPT, grouped and gated": (GPT(20, GROUPED), (TOKENS,), [FORWARD, (r"value/", 4)]),
    "ViT": (ViT(3, 4, SMALL), (IMAGE,), [FORWARD, (r"value/", 4)]),
    "T5": (T5(20, SMALL), (TOKENS, TOKENS), [FORWARD, (r"value/", 4)]),
}


def random_variables(model, inputs):
    """Variables of which none is trivial."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    draw = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: (
            draw.uniform(0.1, 0.6, x.shape).astype(np.float32) * draw.choice([-1, 1], x.shape)
        ),
        shapes,
    )


def half_zero(variables, patterns):
    """The variables with 0 in every number of half of the units, which the layer's name chooses."""
    paths = flatten_dict(variables, sep="/")
    for path, x in paths.items():
        for pattern, width in patterns:
            if path.startswith("params") and re.search(pattern, path):
                draw = np.random.default_rng(crc32(path.rpartition("/")[0].encode()))
                units = x.shape[-1] // width
                gone = draw.permutation(units)[: units // 2]
                x.reshape(-1, units, width)[:, gone] = 0
    return unflatten_dict(paths, sep="/")


@pytest.mark.parametrize("name", CASES)
def test_units_that_are_zero_go_without_a_change_of_the_outputs(name):
    model, inputs, patterns = CASES[name]
    variables = random_variables(model, inputs)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    variables = half_zero(variables, patterns)
    heads = 0.5 if hasattr(model, "config") else 0.0
    small, kept = prune_units(model, variables, 0.5, heads)
    expected, found = (jax.jit(m.apply)(v, *inputs) for m, v in ((model, variables), (small, kept)))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert np.ptp(expected) > 1e-2
    shapes = jax.eval_shape(small.init, jax.random.key(0), *inputs)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), shapes, kept)
    work = [
        operations(jax.make_jaxpr(m.apply)(v, *inputs).jaxpr)
        for m, v in ((model, variables), (small, kept))
    ]
    assert work[1] < 0.85 * work[0]


def test_the_smaller_model_learns_on():
    model = CNN(3, ((4, 1), (6, 1)), dense=(8,))
    small, kept = prune_units(model, random_variables(model, (IMAGE,)), 0.3)
    assert (small.blocks, small.dense) == (((3, 1), (5, 1)), (6,))
    objective = jdl.objectives.classify(small)
    batch = {"x": IMAGE, "y": jnp.arange(2)}
    loss = jax.grad(lambda v: objective.loss(v, batch, jax.random.key(0), True).loss.total)
    assert jax.tree.structure(jax.eval_shape(loss, kept)) == jax.tree.structure(kept)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (MLP(3, (8,)), {"share": 1.0}, "from 0 to below 1"),
        (MLP(3, (8,)), {"heads": 0.5}, "no attention heads"),
        (MLP(3, (8, 8)), {}, "not those of MLP"),
        (MLP(3, (7,)), {}, "has no 7 units of 1"),
        (MLP(3, (4,)), {}, "has no 4 units of 1"),
        (LeNet5(3), {}, "takes MLP, CNN, ResNet, GPT, BERT, ViT, T5, and not LeNet5"),
        (GPT(20, SMALL), {}, "blocks are missing"),
    ],
)
def test_what_cannot_be_made_smaller_is_refused(model, options, message):
    variables = random_variables(MLP(3, (8,)), (IMAGE,))
    with pytest.raises(jdl.Error, match=message):
        prune_units(model, variables, **options)


def test_heads_that_share_relative_positions_are_not_removed():
    model = GPT(20, replace(SMALL, relative_buckets=8, rotary=False))
    variables = random_variables(model, (jnp.zeros((1, 4), jnp.int32),))
    with pytest.raises(jdl.Error, match="share one table of relative positions"):
        prune_units(model, variables, heads=0.5)
