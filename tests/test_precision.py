"""Mixed precision: computed in half, kept in single; and float16 leaves out steps that overflow.

Seen to fail: the types, with gradients that were not widened; the step left out, with the scale
halved but the update carried out.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import train
from model_table import TABLE

import jdl
from jdl.learners import mixed_precision
from jdl.models.mlp import MLP
from jdl.objectives.override import override
from jdl.patterns import balance_biases

QUICK = ("mlp", "cnn-norm", "lstm", "gpt", "plain-nnx")
CASES = [
    pytest.param(
        row,
        precision,
        id=f"{row.name}-{precision}",
        marks=[] if row.name in QUICK else pytest.mark.nightly,
    )
    for row in TABLE
    for precision in ("bfloat16", "float16")
    if precision == "bfloat16" or row.name in QUICK
]


@pytest.mark.slow
@pytest.mark.parametrize(("row", "precision"), CASES)
def test_every_family_learns_in_half_precision(row, precision):
    # Flax's own norms promote their types by JAX's usual rules.
    usual = row.name.startswith("plain")
    with jax.numpy_dtype_promotion("standard" if usual else "strict"):
        check_half_precision(row, precision)


def check_half_precision(row, precision):
    learner = mixed_precision(
        row.wrap(jdl.descent(row.objective(row.model), optax.adamw(row.rate))), precision
    )
    batch, step = row.batch(), jax.jit(learner.step)
    start = state = jax.jit(learner.init)(jax.random.key(0), batch)
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < 0.9 * losses[0]
    assert metrics["loss"].total.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(
        lambda leaf: leaf.dtype, start
    )
    params = learner.eval_variables(state)["params"]
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(balance_biases(params)), strict=True)
    assert {leaf.dtype for leaf, bias in leaves if not bias} == {jnp.dtype(precision)}


def objective():
    """The mean of weights times x; the model state counts the batches."""

    def loss(variables, batch, key, train):
        total = (variables["params"]["w"] * batch["x"]).astype(jnp.float32)
        return jdl.LossOutput(jdl.Mean.of(total), {}, {"seen": variables["seen"] + 1})

    def init(key, batch):
        return {"params": {"w": jnp.zeros(4)}, "seen": jnp.zeros(())}

    return override(jdl.Objective(), init=init, loss=loss)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    learner = mixed_precision(jdl.descent(objective(), optax.sgd(1.0, momentum=0.9)), "float16")
    fine, huge = ({"x": jnp.full((4,), x, jnp.float16)} for x in (1.0, 3.0))
    state = learner.init(jax.random.key(0), fine)
    state, metrics = learner.step(state, fine)
    assert float(metrics["loss_scale"].value()) == 2.0**15
    np.testing.assert_array_equal(state.params["w"], -np.full(4, 0.25))
    after, _ = learner.step(state, huge)  # 3 * 2**15 is more than float16 holds
    assert int(after.step) == 2
    assert float(after.extra["loss_scale"]["scale"]) == 2.0**14
    for name in ("params", "model_state", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    again, metrics = learner.step(after, huge)  # now it fits
    assert np.isfinite(float(metrics["grad_norm"].value()))
    assert (again.params["w"] != after.params["w"]).all()


def test_the_scale_stays_above_zero_however_long_gradients_overflow():
    """A scale of zero would make every later gradient 0 / 0."""
    learner = mixed_precision(jdl.descent(objective(), optax.sgd(1.0)), "float16")
    huge = {"x": jnp.full((4,), jnp.inf, jnp.float16)}
    state = learner.init(jax.random.key(0), huge)
    smallest = jnp.finfo(jnp.float32).tiny
    scale = {**state.extra["loss_scale"], "scale": smallest}
    state, _ = learner.step(replace(state, extra={"loss_scale": scale}), huge)
    assert float(state.extra["loss_scale"]["scale"]) == smallest


@pytest.mark.slow
def test_micro_batches_are_summed_in_single_precision():
    """2,048 gradients of 1 sum to 2,048 in float32; in bfloat16 the sum would stay at 256."""

    def loss(variables, batch, key, train):
        return jdl.LossOutput(
            jdl.Mean.of((variables["params"]["w"] * batch["x"]).astype(jnp.float32).sum(1)), {}, {}
        )

    def init(key, batch):
        return {"params": {"w": jnp.zeros((1, 1))}}

    parts = 512
    learner = mixed_precision(
        jdl.descent(override(jdl.Objective(), init=init, loss=loss), optax.sgd(1.0), parts),
        "bfloat16",
    )
    batch = {"x": jnp.ones((parts, 1), jnp.bfloat16)}
    state, _ = jax.jit(learner.step)(learner.init(jax.random.key(0), batch), batch)
    assert float(state.params["w"][0, 0]) == -1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda objective: jdl.freeze(objective, "first"),
        lambda objective: jdl.lora(objective, "first", rank=1),
        lambda objective: jdl.quantize(objective, "first"),
        lambda objective: jdl.fake_quantize(objective, "first"),
        lambda objective: jdl.quantize(jdl.lora(objective, "first", rank=1), "^lora/base"),
    ],
    ids=["freeze", "lora", "quantize", "fake_quantize", "QLoRA"],
)
def test_what_is_not_trained_is_computed_in_half_precision_and_kept_in_single(change):
    seen = []

    def init(key):
        return {"first": jnp.ones((3, 2)), "second": jnp.ones((2, 2))}

    def apply(params, x):
        seen.append({leaf.dtype for leaf in params.values()})
        return x.astype(jnp.bfloat16) @ params["first"] @ params["second"]

    objective = change(jdl.objectives.classify(jdl.Model(init, apply)))
    learner = mixed_precision(jdl.descent(objective, optax.adam(1e-2)), "bfloat16")
    batch = {"x": jnp.ones((4, 3)), "y": jnp.zeros(4, jnp.int32)}
    state = learner.init(jax.random.key(0), batch)
    new, _ = learner.step(state, batch)
    assert seen == [{jnp.dtype(jnp.bfloat16)}]
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.slow
def test_a_run_in_half_precision_keeps_single(tmp_path):
    found = train(tmp_path, precision="bfloat16", steps=10)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.state.params)} == {jnp.dtype("float32")}
    again = train(tmp_path, precision="bfloat16", steps=10)
    assert again.steps == 0
    assert again.metrics["test"]["loss"].value() == found.metrics["test"]["loss"].value()
    full = train(tmp_path, steps=10)
    assert full.folder != found.folder
    assert full.metrics["test"]["loss"].value() != found.metrics["test"]["loss"].value()


@pytest.mark.slow
def test_half_precision_needs_a_step_that_sums():
    learner = jdl.descent(jdl.objectives.classify(MLP(2)), optax.sgd(0.1))
    members = jdl.population(learner, range(2))
    with pytest.raises(jdl.Error, match="like jdl"):
        mixed_precision(members, "bfloat16")
