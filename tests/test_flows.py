"""Normalizing flows against determinants, integrals and entropies that are known otherwise.

Seen to fail: a negated log-determinant, an inverse that subtracts the shift after the scale or
takes the layers in the order of the way there, a margin of the levels left out of the likelihood.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.figures import density
from jdl.figures.density import draw_density
from jdl.models.autoencoder import Autoencoder
from jdl.models.mlp import MLP
from jdl.models.realnvp import RealNVP
from jdl.objectives import autoencode, normalizing_flow

IMAGES = jax.random.randint(jax.random.key(2), (6, 4, 4, 1), 0, 5) / 4  # of 5 levels


def moved(model, x, spread=0.3):
    """The model's variables for rows like x, away from the identity."""

    def init(x):
        leaves, tree = jax.tree.flatten(model.init(jax.random.key(0), x))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noise = [jax.random.normal(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(
            tree, [a + spread * n for a, n in zip(leaves, noise, strict=True)]
        )

    return jax.jit(init)(x)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2,), (4, 4, 1)])
def test_the_inverse_undoes_the_flow(shape):
    """To 1e-5 of the largest number on the way; a fresh flow is the identity."""
    model, x = RealNVP(6, hidden=(16,)), jax.random.normal(jax.random.key(0), (50, *shape))

    @jax.jit
    def there_and_back(variables):
        z, log_det = model.apply(variables, x)
        return z, log_det, model.apply(variables, z, method="inverse")

    z, log_det, _ = there_and_back(moved(model, x, 0.0))
    np.testing.assert_array_equal(z, x)
    np.testing.assert_array_equal(log_det, 0)
    z, _, back = there_and_back(moved(model, x, 0.1))
    assert jnp.abs(z - x).max() > 0.5
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-5 * float(jnp.abs(z).max()))


@pytest.mark.slow
def test_the_log_determinant_is_that_of_the_jacobian():
    """Computed by `jax.jacfwd` in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, x = RealNVP(6, hidden=(16,)), jax.random.normal(jax.random.key(0), (3, 3, 3, 1))
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), moved(model, x))

        @jax.jit
        def determinants(x):
            row_to_row = jax.jacfwd(lambda row: model.apply(variables, row[None])[0][0])
            jacobian = jax.vmap(row_to_row)(x).reshape(3, 9, 9)
            return model.apply(variables, x)[1], jnp.linalg.slogdet(jacobian)[1]

        log_det, expected = determinants(x)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(log_det, expected, rtol=0, atol=2e-6)  # sums in float32


def test_a_density_integrates_to_one():
    model = RealNVP(6, hidden=(16,))
    side = jnp.linspace(-12, 12, 600)
    x = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    objective = normalizing_flow(model)
    log_prob = jax.jit(objective.predict)(moved(model, x[:1], 0.1), {"x": x})["log_prob"]
    total = float(jnp.exp(log_prob).sum() * (side[1] - side[0]) ** 2)
    assert total == pytest.approx(1, abs=1e-2)


@pytest.mark.slow
def test_the_levels_of_a_dequantized_flow_have_the_probability_one():
    """The bound is of log P(x): its sum over all images of 2 pixels and 5 levels is at most 1.

    The gap to it, by Jensen, is what the density varies within a level: here of the identity.
    """
    rows = jnp.stack(jnp.meshgrid(jnp.arange(5), jnp.arange(5)), -1).reshape(-1, 2) / 4
    objective = normalizing_flow(RealNVP(2, hidden=()), levels=5)
    variables = objective.init(jax.random.key(0), {"x": rows})
    loss = jax.jit(lambda key: objective.loss(variables, {"x": rows}, key, True).loss.value())
    nll = jnp.mean(jax.vmap(loss)(jax.random.split(jax.random.key(0), 500)))
    p = jax.scipy.stats.norm.cdf(jax.scipy.special.logit(jnp.linspace(0.05, 0.95, 6)))
    exact = -2 * jnp.log(jnp.diff(p)).mean()  # of independent pixels
    assert exact + 0.1 < float(nll) < exact + 0.15  # 0.124 by numerical integration


def test_gaussian_data_reach_their_entropy():
    """Two couplings without hidden layers are a linear map: the NLL of the test rows is known."""
    covariance = np.array([[1.0, 0.8], [0.8, 2.0]])
    root = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    x = jax.random.normal(jax.random.key(0), (4_000, 2)) @ root.T
    objective = normalizing_flow(RealNVP(2, hidden=()))
    learner = jdl.descent(objective, optax.adam(2e-2))
    state = learner.init(jax.random.key(0), {"x": x})
    train = jax.jit(
        lambda state: jax.lax.fori_loop(0, 400, lambda _, s: learner.step(s, {"x": x})[0], state)
    )
    nll = objective.loss(learner.eval_variables(train(state)), {"x": x}, state.key, False).loss
    sample = np.cov(np.asarray(x).T, bias=True)
    best = math.log(2 * math.pi * math.e) + 0.5 * math.log(np.linalg.det(sample))
    assert float(nll.value()) == pytest.approx(best, abs=2e-3)


@pytest.mark.slow
def test_discrete_images_come_back_from_their_latents_to_the_bit():
    objective = normalizing_flow(RealNVP(4, hidden=(8,)), levels=5)
    variables, batch = moved(objective.model, IMAGES, 0.1), {"x": IMAGES}
    z = objective.encode(variables, batch)
    np.testing.assert_array_equal(objective.decode(variables, z, batch, None), IMAGES)
    samples = objective.decode(variables, 9 * z, batch, None)  # also of latents far out
    assert set(np.unique(samples * 4)) <= set(range(5))


def test_log_prob_of_a_row_is_its_nll_in_evaluation_whatever_its_batch():
    objective = normalizing_flow(RealNVP(4, hidden=(8,)), levels=5)
    variables, batch = moved(objective.model, IMAGES, 0.1), {"x": IMAGES}
    loss = jax.jit(objective.loss, static_argnums=3)
    metrics = loss(variables, batch, jax.random.key(0), False).metrics
    log_prob = objective.predict(variables, batch)["log_prob"]
    assert float(metrics["nll"].value()) == pytest.approx(-float(log_prob.mean()), rel=1e-6)
    bits = -float(log_prob.mean()) / 16 / math.log(2)
    assert float(metrics["bits_per_dim"].value()) == pytest.approx(bits, rel=1e-6)
    again = objective.predict(variables, {"x": IMAGES[::-1]})["log_prob"]
    np.testing.assert_allclose(again[::-1], log_prob, rtol=1e-6)
    one, two = (loss(variables, batch, jax.random.key(seed), True).loss.value() for seed in (0, 1))
    assert one != two


def test_wrong_levels_are_counted_and_wrong_data_refused():
    objective = normalizing_flow(RealNVP(2, hidden=(8,)), levels=4)
    variables = objective.init(jax.random.key(0), {"x": IMAGES})
    output = objective.loss(variables, {"x": IMAGES}, jax.random.key(0), False)
    off = float(jnp.isin(IMAGES, jnp.array([0.25, 0.5, 0.75])).mean())
    assert float(output.metrics["off_levels"].value()) == pytest.approx(off)
    assert np.isfinite(output.loss.value())
    with pytest.raises(jdl.Error, match="x is from -1 to 1: scale it"):
        objective.check({"x": IMAGES}, {"x": (-1, 1)})
    with pytest.raises(jdl.Error, match="x is int32"):
        objective.check({"x": jnp.zeros((3, 2), jnp.int32)}, {})
    with pytest.raises(jdl.Error, match="needs two"):
        objective.check({"x": jnp.zeros((3, 1))}, {})
    with pytest.raises(jdl.Error, match="at least 2, got 1"):
        normalizing_flow(RealNVP(), levels=1)
    with pytest.raises(jdl.Error, match="MLP has no inverse"):
        normalizing_flow(MLP(2))


def test_the_density_of_rows_of_two_numbers_is_drawn(tmp_path):
    def drawn(objective, x):
        data = jdl.data.arrays(x=x).batches(8)
        made = jdl.Run(jdl.Config(name="map", steps=1), jdl.descent(objective, optax.sgd(0)), data)
        return draw_density(made, jax.jit(objective.init)(jax.random.key(0), data[0]), tmp_path)

    plane = np.random.default_rng(0).normal(size=(20, 2))
    flow = normalizing_flow(RealNVP(2, hidden=()))
    (path,) = drawn(flow, plane)
    assert path.stat().st_size > 10_000
    assert not drawn(flow, plane[:, [0, 1, 0]])
    assert not drawn(autoencode(Autoencoder((2,), 1, hidden=())), plane)


@pytest.mark.slow
def test_a_map_of_the_density_has_the_first_number_along_and_the_second_upwards(monkeypatch):
    class Slope(jdl.Objective):
        def init(self, key, batch):
            return {}

        def predict(self, variables, batch):
            return {"log_prob": batch["x"] @ jnp.asarray([1.0, 10.0])}

    drawn = []
    monkeypatch.setattr(density, "_draw", lambda *args: drawn.append(args))
    x = np.random.default_rng(0).normal(size=(20, 2))
    data = jdl.data.arrays(x=x).batches(8)
    learner = jdl.descent(Slope(), optax.sgd(0))
    draw_density(jdl.Run(jdl.Config(name="map", steps=1), learner, data), {}, Path())
    _, (along, upwards), values, _ = drawn[0]
    expected = np.exp(along[None, :] + 10 * upwards[:, None])
    np.testing.assert_allclose(values, expected, rtol=1e-4)
