"""Autoencoders, games and diffusion against formulas written out.

Seen to fail: the game without `stop_gradient` on either side, the bound without the prior, a step to the wrong time.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_table import UNSUPERVISED

import jdl
from jdl.models.autoencoder import VAE, Autoencoder
from jdl.models.dcgan import Discriminator, Generator
from jdl.objectives import (
    adversarial,
    autoencoding,
    cosine,
    diffusion,
    elbo,
    hinge_gan,
    non_saturating,
    rectified_flow,
)
from jdl.objectives import wasserstein as slope_one

IMAGES = next(row for row in UNSUPERVISED if row.name == "gan").batch()
KEY = 3  # a key of its own is made at each use, which the checker of keys asks for


@pytest.mark.parametrize(
    "game", [non_saturating, hinge_gan, slope_one], ids=["non-saturating", "hinge", "wasserstein"]
)
def test_each_player_has_the_gradient_of_its_own_loss(game):
    """The gradient of the sum is, for each, that of its own loss with the other held still; but for rounding."""
    objective = adversarial(Generator((8, 8, 1), (8, 4)), Discriminator((4, 8)), 5, game)
    variables = jax.jit(objective.init)(jax.random.key(0), IMAGES)

    def of(player, params):
        both = {**variables["params"], player: params}
        return (
            objective.loss({**variables, "params": both}, IMAGES, jax.random.key(KEY), True)
            .metrics[player]
            .value()
        )

    whole = jax.jit(
        jax.grad(lambda v: objective.loss(v, IMAGES, jax.random.key(KEY), True).loss.value())
    )(variables)["params"]
    for player, params in variables["params"].items():
        own = jax.jit(jax.grad(lambda params, player=player: of(player, params)))(params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), whole[player], own
        )
        assert all(leaf.any() for leaf in jax.tree.leaves(own) if leaf.ndim > 1)


def test_what_the_players_lose_is_what_the_papers_say():
    real, fake = jnp.array([2.0, -0.5]), jnp.array([-3.0, 0.25])
    log = jnp.log
    said = jax.nn.sigmoid
    np.testing.assert_allclose(
        non_saturating.of_critic(real, fake), -log(said(real)) - log(1 - said(fake)), rtol=1e-5
    )
    np.testing.assert_allclose(non_saturating.of_generator(fake), -log(said(fake)), rtol=1e-5)
    np.testing.assert_allclose(hinge_gan.of_critic(real, fake), [0, 1.5 + 1.25])
    np.testing.assert_allclose(slope_one.of_critic(real, fake), [-5, 0.75])


def test_the_penalty_is_of_the_slope_of_the_critic():
    """A critic that is a plane has one slope, wherever it is looked at."""

    class Plane(nn.Module):
        @nn.compact
        def __call__(self, x, train=False, mask=None):
            return nn.Dense(1, use_bias=False, name="out")(x.reshape(len(x), -1))

    objective = adversarial(Generator((8, 8, 1), (8, 4)), Plane(), 5, slope_one)
    variables = jax.jit(objective.init)(jax.random.key(0), IMAGES)
    metrics = objective.loss(variables, IMAGES, jax.random.key(KEY), True).metrics
    found = {name: float(metric.value()) for name, metric in metrics.items()}
    norm = float(jnp.linalg.norm(variables["params"]["critic"]["out"]["kernel"]))
    assert found["critic"] == pytest.approx(
        found["fake"] - found["real"] + 10 * (norm - 1) ** 2, rel=1e-5
    )


def test_bounds_lie_below_the_likelihood_and_more_samples_come_nearer():
    """One number of a code can be integrated over: the log-likelihood is then known."""
    model = VAE((4, 4, 1), 1, hidden=(8,))
    batch = {"x": jax.random.bernoulli(jax.random.key(1), 0.5, (6, 4, 4, 1)).astype(jnp.float32)}
    variables = jax.jit(elbo(model).init)(jax.random.key(0), batch)
    z = jnp.linspace(-8, 8, 4_001)[:, None]
    logits = model.apply(variables, z, method="decode")
    said = (
        -jnp.logaddexp(0, (1 - 2 * batch["x"][:, None]) * logits[None])
        .reshape(6, len(z), -1)
        .sum(-1)
    )
    prior = -0.5 * z[:, 0] ** 2 - 0.5 * math.log(2 * math.pi) + math.log(16 / 4_000)
    truth = float(jax.nn.logsumexp(said + prior[None], 1).mean())

    def bounds(count, seed):
        out = elbo(model, importance=count).loss(variables, batch, jax.random.key(seed), False)
        return float(out.metrics["elbo"].value()), float(out.metrics[f"bound{count}"].value())

    found = np.array([[bounds(count, seed) for seed in range(30)] for count in (1, 8, 512)])
    loose, *tight = found[:, :, 0].mean(), *found[:, :, 1].mean(1)
    assert loose < tight[1] < tight[2] < truth + 1e-3
    assert tight[0] == pytest.approx(loose, abs=0.3)
    assert tight[2] == pytest.approx(truth, abs=0.01)


def test_noise_is_for_the_one_who_reads_and_only_in_training():
    objective = autoencode(Autoencoder((4, 4, 1), 3, hidden=(8,)), noise=0.5)
    batch = {"x": jax.random.uniform(jax.random.key(1), (6, 4, 4, 1))}
    variables = jax.jit(objective.init)(jax.random.key(0), batch)
    losses = {(train, seed): float(objective.loss(variables, batch, jax.random.key(seed), train).loss.value())
              for train in (True, False) for seed in (0, 1)}  # fmt: skip
    assert losses[True, 0] != losses[True, 1]
    assert losses[False, 0] == losses[False, 1]


class Knowing(nn.Module):
    """A model that knows the one image, `grey` all over, that there is, and what is asked of it."""

    way: object
    predicts: str
    grey: float = 0.75

    @nn.compact
    def __call__(self, x, t, train=False, mask=None):
        self.param("unused", nn.initializers.zeros, (1,))
        share, spread, data = self.way.share(t), self.way.spread(t), 2 * self.grey - 1
        share, spread, t = (c[:, None, None, None] for c in (share, spread, t))
        noise = (x - share * data) / spread
        return (
            noise
            if self.predicts == "noise"
            else self.way.share_rate(t) * data + self.way.spread_rate(t) * noise
        )


@pytest.mark.parametrize("path", [cosine, rectified_flow], ids=["cosine", "straight"])
@pytest.mark.parametrize("predicts", ["noise", "velocity"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_whoever_knows_the_noise_comes_back_to_the_data(path, predicts, eta):
    objective = diffuse(Knowing(path, predicts), path, predicts, steps=7, eta=eta)
    batch = {"x": jnp.full((3, 4, 4, 1), 0.75)}
    variables = objective.init(jax.random.key(0), batch)
    assert float(objective.loss(variables, batch, jax.random.key(KEY), True).loss.value()) < 1e-6
    z = objective.maker.noise(jax.random.key(KEY), batch)
    made = objective.maker.make(variables, z, batch, jax.random.key(KEY))
    np.testing.assert_allclose(made, batch["x"], atol=1e-4)


def test_the_way_is_that_of_ddim_with_a_model_that_errs():
    """With a model that sees no noise, the first step divides by the share of data, and the others change nothing."""

    class Silent(nn.Module):
        @nn.compact
        def __call__(self, x, t, train=False, mask=None):
            return x * self.param("zero", nn.initializers.zeros, (1, 1, 1, 1))

    objective = diffuse(Silent(), predicts="noise", steps=2)
    batch = {"x": jnp.zeros((2, 4, 4, 1))}
    variables = objective.init(jax.random.key(0), batch)
    z = 1e-4 * jax.random.normal(jax.random.key(KEY), batch["x"].shape)
    first = math.cos(0.999 * math.pi / 2)
    made = objective.maker.make(variables, z, batch, jax.random.key(KEY))
    np.testing.assert_allclose(2 * made - 1, z / first, atol=1e-5)


def test_guidance_leans_to_the_class():
    class Labelled(nn.Module):
        """Says of the noise what the label says; 3 is none."""

        @nn.compact
        def __call__(self, x, t, y, train=False, mask=None):
            table = self.param("table", lambda _: jnp.array([0.1, 0.2, 0.3, 0.0]))
            return jnp.broadcast_to(table[y][:, None, None, None], x.shape)

    batch = {"x": jnp.zeros((3, 4, 4, 1)), "y": jnp.arange(3, dtype=jnp.int32)}
    z = jnp.zeros((3, 4, 4, 1))
    made = {}
    for guidance in (1.0, 2.0):
        objective = diffuse(
            Labelled(), rectified_flow, "noise", classes=3, guidance=guidance, steps=1
        )
        variables = objective.init(jax.random.key(0), batch)
        made[guidance] = objective.maker.make(variables, z, batch, jax.random.key(KEY))
    # At time 0.999 the data that are seen are -0.999 / 0.001 times what is said: all black, unless nothing is said.
    assert (made[1.0] == 0).all()
    small = diffuse(Labelled(), rectified_flow, "velocity", classes=3, guidance=2.0, steps=1)
    plain = diffuse(Labelled(), rectified_flow, "velocity", classes=3, guidance=1.0, steps=1)
    twice, once = (
        2 * o.maker.make(variables, z, batch, jax.random.key(KEY)) - 1 for o in (small, plain)
    )
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
    assert (once[:, 0, 0, 0] == jnp.sort(once[:, 0, 0, 0])[::-1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adversarial(Generator((8, 8, 1)), Discriminator(), 0), "latent"),
        (lambda: autoencode(Autoencoder((4, 4, 1), 2), -1.0), "standard deviation"),
        (lambda: elbo(VAE((4, 4, 1), 2), beta=-1.0), "beta"),
        (lambda: jdl.objectives.gaussian(0.0), "above 0"),
        (lambda: diffuse(None, predicts="data"), "noise"),
        (lambda: diffuse(None, steps=0), "steps"),
        (lambda: diffuse(None, eta=2.0), "eta"),
        (lambda: jdl.optim.update_every(0, None), "1 or more"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "bounds", "message"),
    [
        (autoencode(Autoencoder((4, 4, 1), 2)), {}, "give it the shape"),
        (elbo(VAE((8, 8, 1), 2)), {"x": (0, 16)}, "scale it"),
        (diffuse(Knowing(cosine, "noise")), {"x": (0, 255)}, "scale it"),
        (adversarial(Generator((4, 4, 1), (4,)), Discriminator((4,))), {}, "The generator makes"),
    ],
)
def test_data_that_do_not_fit_are_refused(objective, bounds, message):
    with pytest.raises(jdl.Error, match=message):
        objective.check(IMAGES, bounds)
