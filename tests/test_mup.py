"""Maximal update parametrization (muP): rates and initial weights by the shapes of two models.

Seen to fail: the coordinate check, with any of these dropped: the factor of the hidden layer, that
of the output, those of biases and of the input (SGD), the initial weights of the output.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.objectives import classify, mup_init, next_token

KEY = jax.random.key(0)
BATCH = {
    "x": jax.random.normal(jax.random.key(1), (32, 6)),
    "y": jnp.arange(32, dtype=jnp.int32) % 4,
}
IMAGES = {"x": jnp.ones((2, 8, 8, 1)), "y": jnp.zeros(2, jnp.int32)}
TOKENS = {"x": jnp.ones((2, 8), jnp.int32), "y": jnp.ones((2, 8), jnp.int32)}


def gpt(width, depth=1, tied=False, experts=0):
    sizes = TransformerConfig(width, depth, heads=width // 8, max_length=8, experts=experts)
    return next_token(GPT(11, sizes, tied))


def mlp(width, depth=2):
    return classify(MLP(4, hidden=(width,) * depth))


def cnn(width):
    return classify(CNN(3, ((width, 2), (2 * width, 1)), dense=(4 * width,), batch_norm=True))


def params(objective, batch=BATCH):
    """The shapes of the parameters of an objective."""
    return jax.eval_shape(objective.init, KEY, batch)["params"]


def factors(narrow, wide, adaptive):
    """What muP multiplies the update of each parameter with, by its path."""
    ones = jax.tree.map(lambda p: np.ones(p.shape, np.float32), wide)
    updates, _ = (rule := jdl.optim.mup(optax.identity(), narrow, adaptive)).update(
        ones, rule.init(wide)
    )
    flat = {jax.tree_util.keystr(p, simple=True, separator="/"): u
            for p, u in jax.tree_util.tree_leaves_with_path(updates)}  # fmt: skip
    return {path: float(update.flat[0]) for path, update in flat.items()}


RULES = {  # three times as wide: the factors of adaptive optimizers, and those of others
    "MLP": (mlp(8), mlp(24), BATCH, {
        "Dense_0/kernel": (1, 3), "Dense_1/kernel": (1 / 3, 1), "Dense_2/kernel": (1 / 3, 1 / 3),
        "Dense_1/bias": (1, 3), "Dense_2/bias": (1, 1),
    }),
    "CNN": (cnn(2), cnn(6), IMAGES, {
        "Conv_0/kernel": (1, 3), "Conv_1/kernel": (1 / 3, 1), "BatchNorm_2/scale": (1, 3),
        "head/Dense_0/kernel": (1 / 3, 1), "head/Dense_1/kernel": (1 / 3, 1 / 3),
    }),
    "GPT": (gpt(16), gpt(48), TOKENS, {
        "tokens/table": (1, 3), "head/kernel": (1 / 3, 1 / 3), "stack/norm/scale": (1, 3),
        "stack/block_0/attention/query/kernel": (1 / 3, 1),
        "stack/block_0/feed_forward/in/bias": (1, 3),
    }),
    "mixture of experts": (gpt(16, experts=2), gpt(48, experts=2), TOKENS, {
        "stack/block_0/feed_forward/experts/in/kernel": (1 / 3, 1),
        "stack/block_0/feed_forward/experts/in/bias": (1, 3),
        "stack/block_0/feed_forward/router/kernel": (1 / 3, 1 / 3),
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_rates_follow_from_the_fan_in_and_the_fan_out_of_two_widths(name):
    narrow, wide, batch, rules = RULES[name]
    narrow, wide = params(narrow, batch), params(wide, batch)
    for n, adaptive in enumerate((True, False)):
        found = factors(narrow, wide, adaptive)
        assert {path: found[path] for path in rules} == pytest.approx(
            {path: rule[n] for path, rule in rules.items()}
        )
        assert set(factors(narrow, narrow, adaptive).values()) == {1}


def activations(model, variables):
    """Each layer's output for the batch, by its name."""
    _, found = model.apply(variables, BATCH["x"], capture_intermediates=True)
    layers = found["intermediates"]
    return {name: layers[name]["__call__"][0] for name in ("Dense_0", "Dense_1", "Dense_2")}


def changes(width, optimizer, narrow=None, steps=6):
    """The coordinate check: the root mean square of what training changes in each layer."""
    objective = mlp(width)
    objective = objective if narrow is None else mup_init(objective, narrow)
    learner, model = jdl.descent(objective, optimizer), MLP(4, hidden=(width,) * 2)
    state, step = learner.init(KEY, BATCH), jax.jit(learner.step)
    before = activations(model, {"params": state.params})
    for _ in range(steps):
        state, _ = step(state, BATCH)
    after = activations(model, {"params": state.params})
    return [float(jnp.sqrt(jnp.mean((after[name] - before[name]) ** 2))) for name in before]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "adaptive"), [(optax.adam(3e-3), True), (optax.sgd(0.03, momentum=0.5), False)]
)
def test_training_changes_the_activations_of_all_widths_alike(optimizer, adaptive):
    """The coordinate check (Yang et al., 2022); the standard parametrization does not pass it."""
    narrow = params(mlp(16))
    chain = jdl.optim.mup(optimizer, narrow, adaptive)
    found, wide = (np.array(changes(width, chain, narrow)) for width in (64, 256))
    np.testing.assert_allclose(wide, found, rtol=0.2)
    found, wide = (np.array(changes(width, optimizer)) for width in (64, 256))
    assert (np.abs(np.log2(wide / found)) > 1).any()


def test_weight_decay_of_adamw_is_that_of_all_widths():
    """It does not fall with the rates, as that of an AdamW before muP does."""
    narrow, wide = params(mlp(4)), jax.jit(mlp(8).init)(KEY, BATCH)["params"]
    zeros = jax.tree.map(jnp.zeros_like, wide)

    def decay(optimizer):
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(wide), wide)
        ratio = updates["Dense_1"]["kernel"] / wide["Dense_1"]["kernel"]
        np.testing.assert_array_equal(updates["Dense_1"]["bias"], 0)
        return float(ratio.mean())

    assert decay(jdl.optim.adamw(0.1, 0.5, narrow=narrow)) == pytest.approx(-0.05)
    scaled = jdl.optim.mup(jdl.optim.adamw(0.1, 0.5), narrow)
    assert decay(scaled) == pytest.approx(-0.025)


def test_at_the_width_of_the_narrow_model_nothing_changes():
    narrow = params(mlp(8))
    ours = jdl.descent(mup_init(mlp(8), narrow), jdl.optim.adamw(0.1, narrow=narrow))
    plain = jdl.descent(mlp(8), jdl.optim.adamw(0.1))
    found = []
    for learner in (ours, plain):
        state, step = learner.init(KEY, BATCH), jax.jit(learner.step)
        for _ in range(2):
            state, _ = step(state, BATCH)
        found.append(state.params)
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_initial_weights_of_the_output_fall_and_no_others():
    narrow = params(mlp(8))
    ours, plain = (o.init(KEY, BATCH)["params"] for o in (mup_init(mlp(32), narrow), mlp(32)))
    np.testing.assert_array_equal(ours["Dense_2"].pop("kernel"), plain["Dense_2"].pop("kernel") / 2)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


class Heads(nn.Module):
    """A dense layer whose kernel has the axes of input, heads and features."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(self.width)(x)
        return nn.Dense(4)(nn.DenseGeneral((self.width // 4, 4))(x).reshape(x.shape[0], -1))


REFUSED = {
    "another depth": (mlp(8), mlp(8, depth=3), BATCH, "Dense_3/bias, Dense_3/kernel"),
    "a tied embedding": (gpt(16, tied=True), gpt(32, tied=True), TOKENS, "tied=False"),
    "another kernel": (
        classify(CNN(3, ((4, 1),), dense=())), classify(CNN(3, ((8, 1),), 5, dense=())), IMAGES,
        r"Conv_0/kernel of the shape \(3, 3, 1, 4\), and this one of \(5, 5, 1, 8\)",
    ),
    "an axis of heads": (classify(Heads(8)), classify(Heads(16)), BATCH, "DenseGeneral_0/bias"),
    "a wider narrow one": (mlp(32), mlp(8), BATCH, "the other way round"),
    "more experts": (gpt(16, experts=2), gpt(16, experts=4), TOKENS, "in the last axis alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_differ_in_more_than_width_are_refused_at_once(name):
    narrow, wide, batch, message = REFUSED[name]
    narrow = params(narrow, batch)
    learner = jdl.descent(wide, jdl.optim.adamw(0.1, narrow=narrow))
    with pytest.raises(jdl.Error, match=message):
        jax.eval_shape(learner.init, KEY, batch)
    with pytest.raises(jdl.Error, match=message):
        params(mup_init(wide, narrow), batch)


@pytest.mark.parametrize("wrong", [8, (4, 8), mlp(8), {"params": params(mlp(8))}], ids=type)
def test_what_are_no_parameters_is_refused(wrong):
    with pytest.raises(jdl.Error, match=r"eval_shape|variables\[.params.\]"):
        jdl.optim.mup(optax.sgd(0.1), wrong).init(params(mlp(8)))
