"""The optimizers and schedules that a course names, through Optax, in the one gradient step.

Seen to fail: with a `max_norm` of 0 or below taken, which turns gradients around, and a `warmup` of
20 steps, which never reaches the peak; Muon with the heads as a stack of matrices where a stage or
a freeze hides the others of the module, and with each `out` of three axes as heads; convolutions as
heads where their sizes are such by chance.
"""

import re
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.models.mlp import MLP
from jdl.patterns import input_axes

STEPS = 40
BATCH = {
    "x": jax.random.normal(jax.random.key(0), (12, 6)),
    "y": jnp.arange(12, dtype=jnp.int32) % 4,
}
NARROW = jax.eval_shape(MLP(4, hidden=(8,)).init, jax.random.key(0), BATCH["x"])["params"]
OPTIMIZERS = {
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adagrad": optax.adagrad(0.3),
    "rmsprop": optax.rmsprop(0.01),
    "adam": optax.adam(0.02),
    "adamw": jdl.optim.adamw(0.02, weight_decay=0.1),
    "lion": optax.lion(0.01),
    "muP": jdl.optim.adamw(0.02, narrow=NARROW),
    "muon": jdl.optim.muon(0.02),
    "schedule-free": optax.contrib.schedule_free_adamw(0.05, warmup_steps=5),
    "clipped": jdl.optim.clip_gradients(optax.sgd(0.3), 1.0),
    "stages": jdl.optim.stages(
        jdl.optim.Stage(5, optax.adam(0.02), "Dense_1"), jdl.optim.Stage(35, optax.adam(0.02))
    ),
    "layer-wise decay": jdl.optim.layerwise_decay(optax.adam(0.03), 0.7, r"Dense_(\d+)"),
}
SCHEDULES = {
    "constant": optax.constant_schedule(0.3),
    "step": optax.piecewise_constant_schedule(0.3, {20: 0.1}),
    "cosine": optax.cosine_decay_schedule(0.3, STEPS),
    "warmup": jdl.optim.warmup_cosine(0.5, STEPS),
    "one-cycle": optax.cosine_onecycle_schedule(STEPS, 0.5),
}
TABLE = OPTIMIZERS | {f"sgd, {name}": optax.sgd(schedule) for name, schedule in SCHEDULES.items()}


@pytest.mark.parametrize("name", TABLE)
def test_lowers_the_loss_and_goes_on_from_its_arrays(name):
    learner = jdl.descent(jdl.objectives.classify(MLP(4, hidden=(16,))), TABLE[name])
    state, step = jax.jit(learner.init)(jax.random.key(0), BATCH), jax.jit(learner.step)
    losses = []
    for n in range(STEPS):
        if n == STEPS // 2:
            key, rest = state.key, (state.step, state.params, state.model_state, state.opt_state)
            state = jdl.State(*jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), rest), key)
            again, _ = step(state, BATCH)
        state, metrics = step(state, BATCH)
        if n == STEPS // 2:
            jax.tree.map(np.testing.assert_array_equal, state.opt_state, again.opt_state)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("make", [jdl.optim.adamw, jdl.optim.muon])
def test_norms_and_biases_do_not_decay(make):
    """Nor those of experts, whose biases have two axes; by both optimizers, at one rate."""
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}
    params |= {"head": {"kernel": jnp.ones((3, 2))}, "experts": {"bias": jnp.ones((3, 2))}}
    optimizer = make(0.1, weight_decay=0.5)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(
            jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
        )
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05)
    for part in (updates["bias"], updates["scale"], updates["experts"]["bias"]):
        np.testing.assert_array_equal(part, 0)


def test_muon_is_for_matrices_within_the_network():
    """Their updates are nearly orthogonal, of each expert alone; the others are AdamW's."""
    shapes = {"block/experts/in/kernel": (3, 4, 6), "block/out/kernel": (4, 6)}
    shapes |= {"tokens/table": (5, 4), "head/kernel": (4, 5), "block/experts/in/bias": (3, 6)}
    shapes |= {"block/recurrence/kernel": (4, 6)}
    grads = {n: jax.random.normal(jax.random.key(len(n)), shape) for n, shape in shapes.items()}
    params = jax.tree.map(jnp.ones_like, grads)

    def updates(optimizer):
        return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]

    with jax.numpy_dtype_promotion("standard"):
        ours = updates(jdl.optim.muon(0.1, weight_decay=0.0))
        adam = updates(jdl.optim.clip_gradients(optax.nadam(0.1), 1.0))
    for name in list(shapes)[:2]:
        size = np.linalg.svd(ours[name], compute_uv=False) / (0.1 * 0.2 * np.sqrt(6))
        assert size.shape[-1] == 4
        assert size.min() > 0.5
        assert size.max() < 1.3
    for name in list(shapes)[2:]:
        np.testing.assert_allclose(ours[name], adam[name], rtol=1e-5)


@pytest.mark.parametrize("hidden", ["", "out", "query|key|value"])
@pytest.mark.parametrize("by", ["freeze", "stages"])
def test_muon_takes_the_heads_of_flax_attention_together(hidden, by):
    """Query (inputs, heads, head_dim) and out as the matrices (6, 6), whatever else is hidden."""
    heads = dict.fromkeys(("query/kernel", "key/kernel", "value/kernel"), (6, 2, 3))
    heads |= {"out/kernel": (2, 3, 6)}
    grads = {n: jax.random.normal(jax.random.key(len(n)), shape) for n, shape in heads.items()}
    seen = [n for n in heads if not (hidden and re.match(hidden, n))]
    optimizer = staged = jdl.optim.muon(0.1, max_norm=None)
    if by == "stages":
        staged = jdl.optim.stages(jdl.optim.Stage(1, optimizer, "|".join(seen)))
    given = {n: grads[n] for n in (seen if by == "freeze" else heads)}
    flat = {n.partition("/")[0]: grads[n].reshape(6, 6) for n in seen}
    with jax.numpy_dtype_promotion("standard"):
        ours, _ = staged.update(given, staged.init(given), given)
        expected, _ = optimizer.update(flat, optimizer.init(flat), flat)
    for n in seen:
        np.testing.assert_allclose(ours[n].reshape(6, 6), expected[n.partition("/")[0]], rtol=1e-5)


STACKS = {
    "experts": {"experts/out/kernel": (4, 16, 8)},
    "layers of nn.scan": {"query/kernel": (3, 8, 8), "out/kernel": (3, 8, 8)},
    "a convolution of 3 * 32 outputs": {"query/kernel": (3, 8, 32), "out/kernel": (3, 32, 96)},
    "a window wider than the inputs": {"value/kernel": (7, 3, 16)},
    "as many inputs as outputs of all places": {"key/kernel": (48, 3, 16), "key/bias": (16,)},
}


@pytest.mark.parametrize("name", STACKS)
def test_convolutions_and_stacks_of_matrices_are_no_attention(name):
    """Those of experts, and of layers that nn.scan stacks, stay one matrix each."""
    params = {path: np.zeros(shape) for path, shape in STACKS[name].items()}
    found = {input_axes(path, params) for path in params if path.endswith("kernel")}
    assert found == {(1, 2)}


def test_a_bias_of_heads_tells_attention():
    """At a width that is not Flax's own, where `out` is hidden."""
    params = {"query/kernel": np.zeros((4, 2, 3)), "query/bias": np.zeros((2, 3))}
    assert input_axes("query/kernel", params) == (0, 1)


def test_clipping_scales_the_whole_gradient():
    grads = {"a": jnp.full(4, 3.0), "b": jnp.full(9, 4.0)}
    updates, _ = (optimizer := jdl.optim.clip_gradients(optax.sgd(1.0), 2.0)).update(
        grads, optimizer.init(grads)
    )
    norm = np.sqrt(4 * 9 + 9 * 16)
    np.testing.assert_allclose(updates["a"], -3.0 * 2 / norm, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -4.0 * 2 / norm, rtol=1e-6)


def test_the_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [float(jdl.optim.warmup_cosine(2.0, 100)(n)) for n in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[5] == 2.0
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert all(later < earlier for earlier, later in pairwise(rates[5:]))


LAYERS = {
    "tokens": {"table": jnp.ones(2)},
    "class_token": {"vector": jnp.ones(2)},  # of a ViT
    "block_0": {"kernel": jnp.ones(2)},
    "block_1": {"kernel": jnp.ones(2)},
    "head": {"kernel": jnp.ones(2)},
}


def updates_of(optimizer, steps):
    """The update of each layer in each step, for gradients of 1."""
    state, found, grads = optimizer.init(LAYERS), [], jax.tree.map(jnp.ones_like, LAYERS)
    for _ in range(steps):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, LAYERS)
        found.append({name: float(next(iter(u.values()))[0]) for name, u in updates.items()})
    return found, state


def test_each_stage_trains_its_layers_by_its_own_optimizer_from_its_own_first_step():
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    optimizer = jdl.optim.stages(
        jdl.optim.Stage(2, optax.adam(0.5), "head"), jdl.optim.Stage(3, optax.sgd(schedule))
    )
    found, (step, states) = updates_of(optimizer, 6)
    for updates in found[:2]:
        np.testing.assert_allclose(updates.pop("head"), -0.5, rtol=1e-4)
        assert set(updates.values()) == {0}
    for n, updates in enumerate(found[2:]):
        np.testing.assert_allclose(list(updates.values()), -max(0, 1 - n / 4))
    moments = [leaf.shape for leaf in jax.tree.leaves(states[0]) if leaf.ndim]
    assert moments == [(2,), (2,)]  # of the head alone
    assert step == 6


def test_rates_fall_with_the_depth_of_a_layer_or_are_given_by_pattern():
    (updates,), _ = updates_of(jdl.optim.layerwise_decay(optax.sgd(1.0), 0.5), 1)
    assert updates.pop("class_token") == -0.125
    assert updates == {"tokens": -0.125, "block_0": -0.25, "block_1": -0.5, "head": -1}
    (updates,), _ = updates_of(
        jdl.optim.layer_rates(optax.sgd(1.0), {"tokens": 0.0, "block_": 0.5, "block_1": 9.0}), 1
    )
    assert updates.pop("class_token") == -1
    assert updates == {"tokens": 0, "block_0": -0.5, "block_1": -0.5, "head": -1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jdl.optim.stages(), "at least one"),
        (lambda: jdl.optim.stages(jdl.optim.Stage(0, optax.sgd(1.0))), "1 step or more, not 0"),
        (lambda: jdl.optim.stages(jdl.optim.Stage(1, optax.sgd(1.0), "none")), "matches none"),
        (lambda: jdl.optim.layer_rates(optax.sgd(1.0), {"none": 1.0}), "matches none"),
        (lambda: jdl.optim.layerwise_decay(optax.sgd(1.0), 0.5, r"layer(\d+)"), "matches none"),
    ],
)
def test_patterns_of_layers_that_match_nothing_are_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make().init(LAYERS)


SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jdl.optim.clip_gradients(SGD, -1.0), "above 0, or None for no gradient clipping"),
        (lambda: jdl.optim.clip_gradients(SGD, 0), "max_norm of clip_gradients .* not 0"),
        (lambda: jdl.optim.clip_gradients(SGD, "1"), "not '1'"),
        (lambda: jdl.optim.adamw(0.1, max_norm=-1), "max_norm .* not -1"),
        (lambda: jdl.optim.muon(0.1, max_norm=float("nan")), "max_norm .* not nan"),
        (lambda: jdl.optim.adamw(-0.1), "rate of adamw must be 0 or more, or a schedule, not -0.1"),
        (lambda: jdl.optim.adamw(None), "rate of adamw .* not None"),
        (lambda: jdl.optim.adamw(0.1, weight_decay=-0.1), "weight_decay of adamw .* not -0.1"),
        (lambda: jdl.optim.adamw(0.1, b2=1.0), "b2 of adamw must be from 0 to below 1, not 1.0"),
        (lambda: jdl.optim.muon(np.float32(-1)), "rate of muon .* not"),
        (lambda: jdl.optim.warmup_cosine(0.1, 100, 20), "20 of 100 steps are 0.2.* not 20"),
        (lambda: jdl.optim.warmup_cosine("1e-3", 100), "peak of warmup_cosine .* not '1e-3'"),
        (lambda: jdl.optim.warmup_cosine(0.1, -1), "steps of warmup_cosine .* not -1"),
        (lambda: jdl.optim.layer_rates(SGD, {"head": -1.0}), "factor of layer_rates .* not -1"),
        (lambda: jdl.optim.layerwise_decay(SGD, 0.0), "decay of layerwise_decay .* not 0.0"),
    ],
)
def test_numbers_that_climb_or_train_nothing_are_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


def test_no_norm_is_no_clipping_and_a_number_may_be_traced():
    assert jdl.optim.clip_gradients(SGD, None) is SGD
    assert len(jdl.optim.adamw(0.1, max_norm=None).init(LAYERS)) == 3  # of optax.adamw alone
    jax.eval_shape(lambda rate: jdl.optim.adamw(rate, rate, rate, rate).init(LAYERS), 0.1)
    whole = jdl.optim.warmup_cosine(0.1, 100, 1)
    assert float(whole(100)) == pytest.approx(0.1)
