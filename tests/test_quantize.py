"""Weights in 8 and 4 bits: how near they are, what they take, and adapters trained on top (QLoRA).

Seen to fail: with one scale for all outputs, or for the heads of attention, the two numbers of a
byte exchanged, weights that come back into the state in full, a run that goes on with other devices
without `elastic`, and the members of a population in another order.
"""

from functools import partial
from pathlib import Path

import adapted
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import digest

import jdl
from jdl.inspect.compare import repeat
from jdl.objectives.quantize import dequantize_variables, quantize_variables

BATCH = {name: jnp.asarray(column) for name, column in adapted.BATCH.items()}
OBJECTIVE = jdl.objectives.classify(adapted.MODEL)


def errors_of(weight, bits):
    """The errors of a weight's numbers, in steps of the scale that NumPy computes."""
    stored = quantize_variables({"params": {"w": jnp.asarray(weight)}}, "w", bits)
    found = np.asarray(dequantize_variables(stored)["params"]["w"])
    assert found.shape == weight.shape
    *leading, inputs, outputs = weight.shape
    if bits == 8:
        step = np.broadcast_to(np.abs(weight).reshape(-1, outputs).max(0) / 127, weight.shape)
        return np.abs(found - weight)[step > 0] / step[step > 0], stored
    block = 64 if inputs % 64 == 0 else inputs
    blocks = np.abs(weight).reshape(*leading, -1, block, outputs).max(-2, keepdims=True) / 7
    step = np.broadcast_to(blocks, (*leading, inputs // block, block, outputs)).reshape(
        weight.shape
    )
    return np.abs(found - weight)[step > 0] / step[step > 0], stored


@pytest.mark.parametrize("shape", [(128, 5), (6, 5), (3, 3, 4, 5)])
@pytest.mark.parametrize("bits", [8, 4])
def test_each_number_is_within_half_a_step(shape, bits):
    draw = np.random.default_rng(0)
    weight = draw.normal(size=shape).astype(np.float32) * np.geomspace(0.01, 10, shape[-1])
    weight = weight.astype(np.float32)
    weight[..., 0] = 0
    weight[..., 0, 0] = 1
    errors, stored = errors_of(weight, bits)
    assert errors.max() <= 0.5 + 1e-3
    taken = sum(leaf.nbytes for leaf in jax.tree.leaves(stored["quantized"]))
    assert taken <= weight.size * bits / 8 + 4 * weight.size / min(64, shape[-2])


@pytest.mark.parametrize("bits", [8, 4])
def test_the_heads_of_flax_attention_are_outputs_with_scales_of_their_own(bits):
    """Query (inputs, heads, head_dim), of an odd number of heads, is as the matrix of all."""
    sizes = jnp.geomspace(0.1, 9, 12).reshape(1, 3, 4)
    weight = jax.random.normal(jax.random.key(0), (128, 3, 4)) * sizes
    found, expected = (
        quantize_variables(
            {"params": {"query": {"kernel": w, "bias": jnp.zeros(w.shape[1:])}}}, "kernel", bits
        )
        for w in (weight, weight.reshape(128, 12))
    )
    of_heads, of_matrix = (
        dequantize_variables(v)["params"]["query"]["kernel"] for v in (found, expected)
    )
    assert of_heads.shape == weight.shape
    np.testing.assert_array_equal(of_heads.reshape(128, 12), of_matrix)
    bytes_of = [sum(leaf.nbytes for leaf in jax.tree.leaves(v)) for v in (found, expected)]
    assert bytes_of[0] == bytes_of[1]


class Attends(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=2)(x).mean(1)


@pytest.mark.slow
def test_whole_numbers_multiply_in_flax_attention_as_training_simulates():
    objective = jdl.objectives.classify(Attends())
    batch = {"x": jax.random.normal(jax.random.key(1), (3, 4, 6)), "y": jnp.arange(3)}
    fake = jdl.fake_quantize(objective, "kernel", activations=True)
    variables = jax.jit(fake.init)(jax.random.key(0), batch)
    small = quantize_variables(variables, "kernel")
    integers = jdl.quantize(objective, "kernel", activations=True)
    found, expected, plain = (
        jax.jit(part.predict)(v, batch)["probability"]
        for part, v in ((integers, small), (fake, variables), (objective, variables))
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found != plain).any()


def test_half_precision_stays_within_the_whole_numbers():
    weight = jax.random.normal(jax.random.key(0), (64, 2_000), jnp.bfloat16)
    stored = quantize_variables({"params": {"kernel": weight}}, "kernel")["quantized"]
    assert stored["params/kernel"]["values"].min() == -127


def test_outputs_that_are_zero_stay_zero():
    for bits in (8, 4):
        stored = quantize_variables({"params": {"w": jnp.zeros((4, 3))}}, "w", bits)
        np.testing.assert_array_equal(dequantize_variables(stored)["params"]["w"], 0)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_adapters_are_trained_on_quantized_weights_that_stay_as_they_are(bits):
    adapted = jdl.lora(OBJECTIVE, "Dense", rank=2)
    objective = jdl.quantize(adapted, "^lora/base/.*Dense.*kernel", bits)
    learner = jdl.descent(objective, optax.adam(1e-2))
    state = jax.jit(learner.init)(jax.random.key(0), BATCH)
    before, kind_of_state = state.model_state["quantized"], jax.tree.structure(state)
    kind = jnp.int8 if bits == 8 else jnp.uint8
    assert {parts["values"].dtype for parts in before.values()} == {jnp.dtype(kind)}
    step = jax.jit(learner.step)
    losses = []
    for _ in range(8):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < losses[0]
    assert jax.tree.structure(state) == kind_of_state
    jax.tree.map(np.testing.assert_array_equal, state.model_state["quantized"], before)
    variables = learner.eval_variables(state)
    plain = jdl.merge_lora(dequantize_variables(variables))
    found, expected = (
        o.loss(v, BATCH, jax.random.key(1), False).loss.value()
        for o, v in ((objective, variables), (OBJECTIVE, plain))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def fitted(root, until=None, **options):
    """`tests/scripts/adapted.py`: adapters on a backbone in 8 bits, with a teacher in 8 bits."""
    often = {"log_every": 3, "eval_every": 0, "save_every": 3, "quiet": True}
    options = jdl.Options(root=root, until=until, **often, **options)
    return jdl.fit(adapted.run(adapted.Config()), options, Path(adapted.__file__))


@pytest.mark.slow
def test_adapters_of_a_quantized_backbone_with_a_teacher_resume_elsewhere_to_the_bit(tmp_path):
    """And `jdl repeat` finds the same bits from the record."""
    whole = fitted(tmp_path / "whole", devices=1)
    assert {name.split("/")[0] for name in whole.state.model_state["quantized"]} == {
        *("lora", "teacher")
    }
    with pytest.raises(jdl.train.preemption.PausedError):
        fitted(tmp_path / "parts", until=2, devices=1)
    assert digest(fitted(tmp_path / "parts", devices=2)) == digest(whole)
    assert repeat(whole.folder, quiet=True).first_difference is None


@pytest.mark.slow
def test_members_of_a_population_of_them_train_as_alone():
    """Up to rounding; what is not trained is the same to the bit."""
    data, alone = adapted.run(adapted.Config()).train, adapted.run(adapted.Config()).learner
    states = []
    for learner in (jdl.population(alone, (3, 0)), alone):
        state = jax.jit(learner.init)(jax.random.key(0), data[0])
        for i in range(2):
            state, _ = jax.jit(learner.step)(state, data[i])
        states.append(state)
    other, member = (jax.tree.map(lambda leaf, n=n: leaf[n], states[0].params) for n in (0, 1))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, member, states[1].params)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), member, other)))
    kept = jax.tree.map(lambda leaf: leaf[1], states[0].model_state)
    jax.tree.map(np.testing.assert_array_equal, kept, states[1].model_state)


def test_a_trained_model_is_quantized_and_predicts_alike():
    variables = OBJECTIVE.init(jax.random.key(0), BATCH)
    small = quantize_variables(variables, "kernel")
    found = jdl.quantize(OBJECTIVE, "kernel").predict(small, BATCH)["probability"]
    expected = OBJECTIVE.predict(variables, BATCH)["probability"]
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert (found != expected).any()


@pytest.mark.parametrize(
    ("targets", "bits", "message"),
    [
        ("bias", 8, "none of the weight matrices"),
        ("kernel", 3, "8 or in 4 bits, not in 3"),
        ("kernel", 4, "even number of inputs"),
    ],
)
def test_what_cannot_be_quantized_is_refused(targets, bits, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.quantize(OBJECTIVE, targets, bits).init(jax.random.key(0), BATCH)


@pytest.mark.slow
def test_quantized_twice_is_refused():
    once = quantize_variables({"params": {"w": jnp.ones((4, 2))}}, "w")
    with pytest.raises(jdl.Error, match="quantized already"):
        quantize_variables(once, "w")
