"""`jdl explain`: attributions against values by hand, their axioms, and what does not apply.

Seen to fail: TODO
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl import explain
from jdl.explain.attribution import METHODS, attributions, windows
from jdl.models.mlp import MLP
from jdl.objectives import classify

KEY = jax.random.key(0)


def made(model, shape=(3, 5), seed=0):
    """An untrained classifier, and a batch of random rows."""
    x = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
    objective, batch = classify(model), {"x": x}
    return objective, objective.init(KEY, batch), batch


@pytest.fixture(scope="module")
def linear():
    """A linear model: the score of class k is x @ W[:, k] + b[k]."""
    objective, variables, batch = made(MLP(4))
    score = explain.score(objective, variables, batch, jnp.asarray([2, 0, 3]))
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    return score, batch["x"], kernel[:, [2, 0, 3]].T


def test_of_a_linear_model_gradients_are_its_weights(linear):
    score, x, weights = linear
    np.testing.assert_allclose(explain.saliency(score, x), weights, rtol=1e-6)
    found = explain.smooth_grad(score, x, KEY, samples=4)
    np.testing.assert_allclose(found, weights, rtol=1e-5)


def test_of_a_linear_model_attributions_are_weights_times_what_is_above_the_baseline(linear):
    score, x, weights = linear
    for baseline in (0.0, 0.5):
        found = explain.integrated_gradients(score, x, baseline, steps=3)
        np.testing.assert_allclose(found, weights * (x - baseline), rtol=1e-5, atol=1e-6)
        found = explain.occlusion(score, x, baseline=baseline)
        np.testing.assert_allclose(found, weights * (x - baseline), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def curved():
    """An MLP with a smooth activation, of images."""
    objective, variables, batch = made(MLP(3, (16,), nn.gelu), (4, 6, 6, 1))
    return explain.score(objective, variables, batch), batch["x"]


@pytest.mark.parametrize("baseline", [0.0, -1.0])
def test_integrated_gradients_are_complete(curved, baseline):
    score, x = curved
    found = explain.integrated_gradients(score, x, baseline).sum((1, 2, 3))
    expected = score(x) - score(jnp.full_like(x, baseline))
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(expected).min() > 0.02  # gradients alone do not sum to it
    alone = (explain.saliency(score, x) * (x - baseline)).sum((1, 2, 3))
    assert np.abs(alone - expected).max() > 0.02


def test_smooth_grad_is_the_mean_gradient_of_noisy_inputs(curved):
    score, x = curved
    np.testing.assert_allclose(
        explain.smooth_grad(score, x, KEY, noise=0.0, samples=2), explain.saliency(score, x), 1e-5
    )
    deviation = 0.3 * np.ptp(np.asarray(x).reshape(4, -1), axis=1).reshape(4, 1, 1, 1)
    draws = [jax.random.normal(jax.random.fold_in(KEY, n), x.shape) for n in range(3)]
    expected = sum(explain.saliency(score, x + deviation * draw) for draw in draws) / 3
    found = explain.smooth_grad(score, x, KEY, noise=0.3, samples=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_occlusion_is_the_mean_fall_over_the_windows_that_cover_a_place(curved):
    score, x = curved
    found = explain.occlusion(score, x, size=3, stride=2)
    total, count = np.zeros((4, 6, 6)), np.zeros((6, 6))
    for top in (0, 2, 3):
        for left in (0, 2, 3):
            place = (slice(top, top + 3), slice(left, left + 3))
            fall = score(x) - score(x.at[:, *place].set(0.0))
            total[:, *place] += np.asarray(fall)[:, None, None]
            count[place] += 1
    np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "size", "stride"), [((7, 5, 3), 3, 2), ((9, 2), 4, 3), ((6,), 1, 1)]
)
def test_windows_cover_every_place(shape, size, stride):
    found = windows(shape, size, stride)
    assert found.shape[1:] == (shape[:-1] or shape)
    assert found.any(0).all()
    assert (found.reshape(len(found), -1).sum(1) == size ** max(1, len(shape) - 1)).all()


class Plain(nn.Module):
    """A CNN of Flax alone: one convolution, global average pooling, one dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def test_grad_cam_is_the_weighted_sum_of_the_maps():
    """Of global average pooling and a dense layer it is CAM: its weights are those of the layer."""
    objective, variables, batch = made(Plain(), (2, 6, 6, 1))
    score = explain.score(objective, variables, batch, jnp.asarray([1, 2]))
    params = variables["params"]
    maps = nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, batch["x"])
    kernel = params["head"]["kernel"][:, jnp.asarray([1, 2])].T  # (2, 4)
    share = (maps > 0).mean((1, 2))  # of ReLU's gradient, on average over the map
    expected = jax.nn.relu(jnp.einsum("bhwc,bc->bhw", maps, kernel * share / 36))
    np.testing.assert_allclose(explain.grad_cam(score), expected, rtol=1e-4, atol=1e-7)
    assert expected.max() > 0


def test_layers_of_a_model_in_an_objective_are_found():
    objective, variables, batch = made(Plain(), (2, 6, 6, 1))
    of_flax = Plain().apply(variables, batch["x"], capture_intermediates=True)[1]["intermediates"]
    _, found = explain.layer_outputs(lambda: objective.predict(variables, batch))
    assert list(found) == ["conv", "head", ""]
    for name in ("conv", "head"):
        assert np.array_equal(found[name], of_flax[name]["__call__"][0])
    with pytest.raises(jdl.Error, match="No layer 'pool' gives feature maps; those are of conv"):
        explain.grad_cam(explain.score(objective, variables, batch), "pool")


def test_a_model_without_maps_has_no_grad_cam(linear):
    with pytest.raises(jdl.Error, match="No layer of the model gives feature maps"):
        explain.grad_cam(linear[0])


@pytest.fixture(scope="module")
def digits():
    """An MLP of the digits, trained for a moment."""
    train, test = jdl.data.digits()
    import optax

    learner = jdl.descent(classify(MLP(10, (32,))), optax.adam(1e-2))
    loader = train.shuffled(64, 0)
    state = jax.jit(learner.init)(KEY, loader[0])
    step = jax.jit(learner.step)
    for n in range(60):
        state, _ = step(state, loader[n])
    return learner, state, test


def test_random_weights_change_every_map(digits):
    """The sanity check of Adebayo et al. (2018); a map of the input alone would not pass it."""
    learner, state, test = digits
    variables, batch = learner.eval_variables(state), test.batches(16)[0]
    batch.pop("mask")
    score = explain.score(learner.objective, variables, batch)
    random = {**variables, "params": explain.shuffle_parameters(variables["params"], KEY)}
    other = explain.score(learner.objective, random, batch, score.chosen)
    maps, of_random = (attributions(s, batch["x"]) for s in (score, other))
    for name in METHODS:
        assert maps[name].shape[:3] == batch["x"].shape[:3]
        again = attributions(score, batch["x"])[name]
        assert explain.map_correlation(maps[name], again) > 0.999
        assert abs(explain.map_correlation(maps[name], of_random[name])) < 0.5, name


def test_shuffled_parameters_are_the_same_numbers_elsewhere(digits):
    params = digits[1].params
    for before, after in zip(
        *map(jax.tree.leaves, (params, explain.shuffle_parameters(params, KEY))), strict=True
    ):
        assert np.array_equal(np.sort(before.ravel()), np.sort(after.ravel()))
        assert not np.array_equal(before, after)
