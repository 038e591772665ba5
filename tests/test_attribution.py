"""Attributions: against values by hand and captum's, their axioms, and what has none.

tests/golden/captum.npz is written by scripts/golden_captum.py. Seen to fail: with the right ends of
the steps of integrated gradients, with falls that are summed over windows, with parameters that are
not shuffled, with the outputs of the class that a layer derives from, and with wrapped objectives
without their outputs.
"""

from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explained_models import KEY, Plain, made, trained_digits

import jdl
from jdl import explain
from jdl.explain.attribution import METHODS, attributions, windows
from jdl.explain.embeddings import probed_layers
from jdl.explain.layers import shapes_in_order
from jdl.explain.subject import Subject
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.objectives import classify, with_metrics


@pytest.fixture(scope="module")
def digits():
    return trained_digits()


@pytest.fixture(scope="module")
def linear():
    """A linear model: the score of class k is x @ W[:, k] + b[k]."""
    objective, variables, batch = made(MLP(4))
    score = explain.score(objective, variables, batch, jnp.asarray([2, 0, 3]))
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    return score, batch["x"], kernel[:, [2, 0, 3]].T


def test_of_a_linear_model_gradients_are_its_weights(linear):
    score, x, weights = linear
    np.testing.assert_allclose(jax.jit(explain.saliency)(score, x), weights, rtol=1e-6)
    found = explain.smooth_grad(score, x, KEY, samples=4)
    np.testing.assert_allclose(found, weights, rtol=1e-5)


def test_the_score_of_a_binary_classifier_is_that_of_the_predicted_class():
    objective = jdl.objectives.classify_binary(MLP(1))
    x = jax.random.normal(jax.random.key(1), (8, 5))
    batch = {"x": x, "y": jnp.arange(8) % 2}
    variables = objective.init(jax.random.key(0), batch)
    logits = objective.outputs(variables, batch, jax.random.key(0), False)[0][:, 0]
    assert (logits < 0).any()
    np.testing.assert_array_equal(explain.score(objective, variables, batch)(x), jnp.abs(logits))


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


class OfCaptum(nn.Module):
    """The model of scripts/golden_captum.py."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(4, (3, 3), name="conv")(x))
        x = x.reshape(-1, 4, 2, 3, 2, 4).mean((2, 4))  # average pooling
        return nn.Dense(5, name="dense")(x.reshape(len(x), -1))


def test_attributions_are_those_of_captum():
    golden = np.load(Path(__file__).parent / "golden" / "captum.npz")
    params = {
        "conv": {"kernel": golden["conv"], "bias": golden["conv_bias"]},
        "dense": {"kernel": golden["dense"].reshape(-1, 5), "bias": golden["dense_bias"]},
    }
    x = jnp.asarray(golden["x"])
    score = explain.score(classify(OfCaptum()), {"params": params}, {"x": x}, [1, 3])

    @jax.jit
    def found(score):
        return {
            "saliency": explain.saliency(score, x),
            "integrated_gradients": explain.integrated_gradients(score, x, 0.25, 16),
            "occlusion": explain.occlusion(score, x, 2, 1, 0.25),
            "grad_cam": explain.grad_cam(score, "conv"),
        }

    for name, mine in found(score).items():
        given = golden[name] if golden[name].shape == mine.shape else golden[name][..., 0]
        np.testing.assert_allclose(mine, given, rtol=1e-4, atol=2e-6, err_msg=name)
        assert np.abs(given).max() > 1e-3


def test_layers_of_a_model_in_an_objective_are_found():
    objective, variables, batch = made(Plain(), (2, 6, 6, 1))
    of_flax = Plain().apply(variables, batch["x"], capture_intermediates=True)[1]["intermediates"]
    _, found = explain.layer_outputs(lambda: objective.predict(variables, batch))
    assert list(found) == ["conv", "head", ""]
    for name in ("conv", "head"):
        assert np.array_equal(found[name], of_flax[name]["__call__"][0])
    with pytest.raises(jdl.Error, match="No layer 'pool' gives feature maps; those are of conv"):
        explain.grad_cam(explain.score(objective, variables, batch), "pool")


def test_blocks_and_layers_are_found_in_order_with_their_whole_outputs():
    """Layers of jdl call the class of Flax that they derive from, on flattened rows."""
    model = ViT(10, 4, TransformerConfig(width=8, depth=2, heads=2))
    objective, batch = classify(model), {"x": jnp.zeros((3, 8, 8, 1))}
    variables = jax.eval_shape(objective.init, KEY, batch)
    names = probed_layers(objective, variables, batch)
    assert names == ["patches", "stack/block_0", "stack/block_1", "head"]
    found = shapes_in_order(
        lambda *given: explain.layer_outputs(lambda: objective.predict(*given))[1], variables, batch
    )
    assert [found[name].shape for name in names] == [(3, 4, 8)] * 3 + [(3, 10)]


@pytest.mark.parametrize(
    "wrap",
    [lambda o: jdl.freeze(o, "Dense_0"), lambda o: with_metrics(o, auc=jdl.metrics.roc_auc)],
    ids=["freeze", "with_metrics"],
)
def test_wrapped_objectives_are_explained_as_they_are(wrap):
    objective, variables, batch = made(MLP(4, (3,)))
    wrapped = wrap(objective)
    score = explain.score(wrapped, wrapped.init(KEY, batch), batch, [0, 1, 2])
    plain = explain.score(objective, variables, batch, [0, 1, 2])
    assert np.array_equal(score(batch["x"]), plain(batch["x"]))


@pytest.mark.parametrize(
    ("objective", "x", "message"),
    [
        (classify(MLP(3)), np.zeros((2, 4), np.int32), "x is int32, and a gradient needs floats"),
        (classify(nn.Dense(3)), np.zeros((2, 4, 5), np.float32), r"not some numbers for each row"),
        (jdl.Objective(), np.zeros((2, 4), np.float32), "no one model with one output"),
    ],
    ids=["tokens", "steps", "other"],
)
def test_what_has_no_score_is_refused(objective, x, message):
    batch = {"x": jnp.asarray(x)}
    plain = type(objective) is jdl.Objective
    variables = {} if plain else objective.init(KEY, {"x": batch["x"].astype(jnp.float32)})
    with pytest.raises(jdl.Error, match=message):
        explain.score(objective, variables, batch)


@pytest.mark.parametrize("chosen", [4, -1, [0, 1], [0, 1, 4], 1.0, [[0], [1], [2]]])
def test_an_output_that_there_is_not_is_refused(linear, chosen):
    score, x, _ = linear
    of_all, of_each = (
        explain.score(score.objective, score.variables, score.batch, k) for k in (2, [2, 2, 2])
    )
    assert np.array_equal(of_all(x), of_each(x))
    with pytest.raises(jdl.Error, match="chosen is the index of an output, from 0 to 3"):
        explain.score(score.objective, score.variables, score.batch, chosen)


@pytest.mark.parametrize(
    "objective",
    [jdl.objectives.regress(MLP(2)), jdl.objectives.deep_svdd(MLP(2))],
    ids=["targets", "deep_svdd"],
)
def test_of_several_numbers_none_is_explained_unless_it_is_chosen(objective):
    batch = {"x": jnp.ones((3, 4)), "y": jnp.ones((3, 2))}
    variables = objective.init(KEY, batch)
    with pytest.raises(jdl.Error, match="gives 2 numbers a row, and none stands for a class"):
        explain.score(objective, variables, batch)
    assert explain.score(objective, variables, batch, 1)(batch["x"]).shape == (3,)


def test_a_model_without_maps_has_no_grad_cam(linear):
    with pytest.raises(jdl.Error, match="No layer of the model gives feature maps"):
        explain.grad_cam(linear[0])


@pytest.mark.slow
def test_random_weights_change_every_map(digits):
    """The sanity check of Adebayo et al. (2018); a map of the input alone would not pass it."""
    score = Subject(digits, tuple(range(16))).score
    batch, variables = score.batch, score.variables
    random = {**variables, "params": explain.shuffle_parameters(variables["params"], KEY)}
    other = replace(score, variables=random)
    maps, of_random = (attributions(s, batch["x"]) for s in (score, other))
    for name in METHODS:
        assert maps[name].shape[:3] == batch["x"].shape[:3]
        again = attributions(score, batch["x"])[name]
        assert explain.map_correlation(maps[name], again) > 0.999
        assert abs(explain.map_correlation(maps[name], of_random[name])) < 0.5, name


def test_shuffled_parameters_are_the_same_numbers_elsewhere(digits):
    params = digits.state.params
    for before, after in zip(
        *map(jax.tree.leaves, (params, explain.shuffle_parameters(params, KEY))), strict=True
    ):
        assert np.array_equal(np.sort(before.ravel()), np.sort(after.ravel()))
        assert not np.array_equal(before, after)


def test_maps_without_a_correlation_are_left_out_of_it():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 9))
    b = a.copy()
    b[1], b[2] = np.nan, 7.0
    assert explain.map_correlation(a, b) == pytest.approx(1)
    assert np.isnan(explain.map_correlation(a[1:3], b[1:3]))
