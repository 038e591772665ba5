"""Quantization-aware training and calibration: rounded as they are later, with their gradients.

Seen to fail: without the value or with no gradient of a rounded number; with a gradient beyond the
range; with padding in the range; with the ranges of the last batch alone; with scales of 100 steps
in place of 127; and with one scale for all outputs of a product.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.layers import Dense
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.objectives import (
    calibrate,
    classify,
    dequantize_variables,
    next_token,
    quantize_variables,
)
from jdl.objectives.fake_quantize import straight_through
from jdl.objectives.pretrained_model import Weights
from jdl.weights.load import arrays_by_path

KEY = jax.random.key(0)
BATCH = {"x": jax.random.normal(jax.random.key(9), (6, 8, 8, 1)), "y": jnp.arange(6) % 3}
CNN_ = CNN(3, blocks=((4, 1), (6, 1)), dense=(6,), batch_norm=True)
PLAIN = classify(CNN_)


def trained(objective, steps=6):
    """The variables after a few steps, in evaluation."""
    learner = jdl.descent(objective, optax.adam(1e-2))
    state = jax.jit(learner.init)(KEY, BATCH)
    step = jax.jit(learner.step)
    for _ in range(steps):
        state, _ = step(state, BATCH)
    return learner.eval_variables(state)


def range_names(variables):
    paths = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths)
    return [name for name in names if name.endswith("input_range")]


def test_the_straight_through_estimator_is_the_value_to_the_bit_with_the_gradient_of_x():
    x = jax.random.normal(KEY, (99,)) * 1e3
    value, grad = jax.value_and_grad(lambda x: straight_through(jnp.round(x), x).sum())(x)
    np.testing.assert_array_equal(straight_through(jnp.round(x), x), np.round(x))
    np.testing.assert_array_equal(grad, 1)
    assert value == jnp.round(x).sum()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_the_loss_and_gradients_are_those_of_the_quantized_weights(bits):
    """And the predictions of the trained model are those that it has once it is quantized."""
    targets = "head.*kernel"
    fake = jdl.fake_quantize(PLAIN, targets, bits)
    variables = trained(fake)
    small = quantize_variables(variables, targets, bits)
    rounded = dequantize_variables(small)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), variables, rounded)))

    def loss(params, objective, rest):
        return objective.loss({**rest, "params": params}, BATCH, KEY, True).loss.value()

    found, expected = (
        jax.value_and_grad(loss)(v["params"], objective, v)
        for objective, v in ((fake, variables), (PLAIN, rounded))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
    after = jdl.quantize(PLAIN, targets, bits).predict(small, BATCH)
    jax.tree.map(np.testing.assert_array_equal, fake.predict(variables, BATCH), after)


@pytest.mark.slow
def test_products_of_whole_numbers_are_those_that_the_training_simulates():
    variables = trained(jdl.fake_quantize(PLAIN, "kernel", activations=True))
    assert len(range_names(variables)) == 4
    simulated = jdl.fake_quantize(PLAIN, "kernel", activations=True).predict(variables, BATCH)
    integers = jdl.quantize(PLAIN, "kernel", activations=True)
    small = quantize_variables(variables, "kernel")
    found = integers.predict(small, BATCH)["probability"]
    np.testing.assert_allclose(found, simulated["probability"], atol=1e-6)
    assert (found != PLAIN.predict(variables, BATCH)["probability"]).any()
    text = str(jax.make_jaxpr(integers.predict)(small, BATCH))
    assert text.count("preferred_element_type=int32") == 4


class OurDense(nn.Module):
    """A layer whose call calls that of its parent class."""

    @nn.compact
    def __call__(self, x):
        return Dense(1, name="Dense_0")(x)


@pytest.mark.parametrize("model", [MLP(1), OurDense()], ids=["flax", "ours"])
def test_inputs_are_rounded_and_clipped_within_the_running_range(model):
    """One dense layer, by NumPy; beyond the range there is no gradient; padding shows nothing."""
    fake = jdl.fake_quantize(jdl.objectives.regress(model), "kernel", activations=True)
    x = np.asarray([[0.5, -0.26], [4.0, 1.0], [99.0, 99.0]], np.float32)
    batch = {"x": x, "y": np.zeros(3, np.float32), "mask": np.asarray([True, True, False])}
    variables = fake.init(KEY, batch)
    assert float(variables["batch_stats"]["Dense_0"]["input_range"]) == 0
    first = fake.loss(variables, batch, KEY, True).model_state
    assert float(first["batch_stats"]["Dense_0"]["input_range"]) == 4
    wide = {**batch, "x": 2 * x}
    second = fake.loss({**variables, **first}, wide, KEY, True).model_state["batch_stats"]
    limit = float(second["Dense_0"]["input_range"])
    assert limit == pytest.approx(0.99 * 4 + 0.01 * 8)

    def out(x):
        return fake.predict({**variables, **first}, {**batch, "x": x})["value"]

    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    kernel = np.round(kernel / (step := np.abs(kernel).max(0) / 127)) * step
    rounded = np.clip(np.round(x * 127 / 4), -127, 127) * 4 / 127
    np.testing.assert_allclose(out(x), (rounded @ kernel)[:, 0], rtol=1e-6)
    grads = jax.grad(lambda x: out(x).sum())(jnp.asarray(x))
    expected = np.where(np.abs(x) <= 4, kernel.T, 0)
    np.testing.assert_allclose(grads[:1], expected[:1], rtol=1e-6)
    np.testing.assert_array_equal(grads[2], 0)


def test_calibration_finds_the_largest_inputs_of_all_batches():
    variables = trained(PLAIN)
    batches = [BATCH, {**BATCH, "x": 3 * BATCH["x"]}, BATCH]
    found = calibrate(PLAIN, variables, batches, "kernel")
    stats = found["batch_stats"]
    assert float(stats["Conv_0"]["input_range"]) == float(3 * jnp.abs(BATCH["x"]).max())
    assert len(range_names(found)) == 4
    lower = calibrate(PLAIN, variables, batches, "Conv", percentile=99.0)
    assert range_names(lower) == ["Conv_0/input_range", "Conv_1/input_range"]
    expected = np.percentile(np.abs(3 * BATCH["x"]), 99)
    np.testing.assert_allclose(lower["batch_stats"]["Conv_0"]["input_range"], expected, rtol=1e-6)
    small = quantize_variables(found, "kernel")
    integers = jdl.quantize(PLAIN, "kernel", activations=True).predict(small, BATCH)
    expected = PLAIN.predict(variables, BATCH)["probability"]
    np.testing.assert_allclose(integers["probability"], expected, atol=0.05)


@pytest.mark.slow
def test_a_taught_model_has_ranges_and_its_teacher_none():
    """The teacher's layers have the names of the student's, and compute in full."""
    wide = CNN(3, blocks=((5, 1), (6, 1), (7, 1)), dense=())
    arrays = jax.tree.map(np.asarray, wide.init(KEY, BATCH["x"]))
    teacher = jdl.pretrained(wide, Weights(lambda: (arrays_by_path(arrays), "0" * 64, "given")))
    taught = jdl.distil(PLAIN, teacher, weight=1.0)
    fake = jdl.fake_quantize(taught, "^params/.*kernel", activations=True)
    variables = trained(fake)
    assert len(range_names(variables)) == 4
    jax.tree.map(np.testing.assert_array_equal, variables["teacher"], arrays)
    text = str(jax.make_jaxpr(lambda v: fake.loss(v, BATCH, KEY, False).loss.value())(variables))
    assert text.count(" round[") == 2 * 4


WITHIN_REMAT = next_token(GPT(9, TransformerConfig(width=8, depth=1, heads=2, remat=True)))
TOKENS = {"x": jnp.ones((2, 4), jnp.int32)}
REFUSED = {
    "8 or in 4 bits, not in 2": lambda: jdl.fake_quantize(PLAIN, "kernel", 2),
    "matches none of the weight matrices": lambda: jdl.fake_quantize(PLAIN, "bias").init(
        KEY, BATCH
    ),
    "dense layers and convolutions of a Linen": lambda: jdl.fake_quantize(
        classify(
            jdl.Model(
                lambda key: {"kernel": jnp.ones((64, 3))},
                lambda p, x: x.reshape(-1, 64) @ p["kernel"],
            )
        ),
        "kernel",
        activations=True,
    ).init(KEY, BATCH),
    "are of 8 bits, not of 4": lambda: jdl.quantize(PLAIN, "kernel", 4, activations=True),
    "need the ranges of the layers' inputs": lambda: jdl.quantize(
        PLAIN, "kernel", activations=True
    ).predict(quantize_variables(PLAIN.init(KEY, BATCH), "kernel"), BATCH),
    "remat=False": lambda: calibrate(
        WITHIN_REMAT, WITHIN_REMAT.init(KEY, TOKENS), [TOKENS], "kernel"
    ),
    "at least one batch": lambda: calibrate(PLAIN, {}, [], "kernel"),
    "percentile must be": lambda: calibrate(PLAIN, {}, [BATCH], "kernel", 0.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_rounded_is_refused(message):
    with pytest.raises(jdl.Error, match=message):
        REFUSED[message]()
