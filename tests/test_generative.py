"""Autoencoders, GANs and diffusion models against formulas written out.

Seen to fail: the GAN without `stop_gradient` on either side, the IWAE bound without the prior, a
sampling step to the wrong time, guidance that was never learnt, estimates clipped without `clip`.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.models.autoencoder import VAE, Autoencoder
from jdl.models.dcgan import Discriminator, Generator
from jdl.objectives import (
    adversarial,
    autoencode,
    cosine_schedule,
    diffusion,
    elbo,
    hinge_gan,
    non_saturating,
    rectified_flow,
    wasserstein,
)

IMAGES = next(row for row in UNSUPERVISED if row.name == "gan").batch()
KEY = 3  # a key of its own is made at each use, which the checker of keys asks for


@pytest.mark.slow
@pytest.mark.parametrize(
    "gan_loss", [non_saturating, hinge_gan, wasserstein], ids=["non-saturating", "hinge", "wgan"]
)
def test_each_module_has_the_gradient_of_its_own_loss(gan_loss):
    """The gradient of the sum is, for each, that of its own loss with the other's parameters fixed.

    But for rounding.
    """
    objective = adversarial(Generator((8, 8, 1), (8, 4)), Discriminator((4, 8)), 5, gan_loss)
    variables = jax.jit(objective.init)(jax.random.key(0), IMAGES)

    def output(params):
        return objective.loss({**variables, "params": params}, IMAGES, jax.random.key(KEY), True)

    def own_loss(module, params):
        return output({**variables["params"], module: params}).metrics[f"{module}_loss"].value()

    grads = jax.jit(jax.grad(lambda params: output(params).loss.value()))(variables["params"])
    for module, params in variables["params"].items():
        own = jax.jit(jax.grad(lambda params, module=module: own_loss(module, params)))(params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), grads[module], own
        )
        assert all(leaf.any() for leaf in jax.tree.leaves(own) if leaf.ndim > 1)


def test_gan_losses_are_those_of_the_papers():
    real, fake = jnp.array([2.0, -0.5]), jnp.array([-3.0, 0.25])
    log, sigmoid = jnp.log, jax.nn.sigmoid
    cross_entropy = -log(sigmoid(real)) - log(1 - sigmoid(fake))
    losses = non_saturating.discriminator_loss(real, fake)
    np.testing.assert_allclose(losses, cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(non_saturating.generator_loss(fake), -log(sigmoid(fake)), rtol=1e-5)
    np.testing.assert_allclose(hinge_gan.discriminator_loss(real, fake), [0, 1.5 + 1.25])
    np.testing.assert_allclose(hinge_gan.generator_loss(fake), -fake)
    np.testing.assert_allclose(wasserstein.discriminator_loss(real, fake), [-5, 0.75])
    np.testing.assert_allclose(wasserstein.generator_loss(fake), -fake)


def test_the_gradient_penalty_is_that_of_the_critic():
    """A linear critic has one gradient, wherever it is taken."""

    class Plane(nn.Module):
        @nn.compact
        def __call__(self, x, train=False, mask=None):
            return nn.Dense(1, use_bias=False, name="out")(x.reshape(len(x), -1))

    objective = adversarial(Generator((8, 8, 1), (8, 4)), Plane(), 5, wasserstein)
    variables = jax.jit(objective.init)(jax.random.key(0), IMAGES)
    loss = jax.jit(objective.loss, static_argnums=3)
    metrics = loss(variables, IMAGES, jax.random.key(KEY), True).metrics
    values = {name: float(metric.value()) for name, metric in metrics.items()}
    norm = float(jnp.linalg.norm(variables["params"]["discriminator"]["out"]["kernel"]))
    expected = values["fake_logit"] - values["real_logit"] + 10 * (norm - 1) ** 2
    assert values["discriminator_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_elbo_and_iwae_are_bounds_of_the_likelihood_and_more_samples_are_tighter():
    """A latent of one number can be integrated over: the log-likelihood is then known."""
    model = VAE((4, 4, 1), 1, hidden=(8,))
    batch = {"x": jax.random.bernoulli(jax.random.key(1), 0.5, (6, 4, 4, 1)).astype(jnp.float32)}
    variables = jax.jit(elbo(model).init)(jax.random.key(0), batch)
    z = jnp.linspace(-8, 8, 4_001)[:, None]
    logits = model.apply(variables, z, method="decode")
    nll = jnp.logaddexp(0, (1 - 2 * batch["x"][:, None]) * logits[None])
    log_likelihood = -nll.reshape(6, len(z), -1).sum(-1)
    prior = -0.5 * z[:, 0] ** 2 - 0.5 * math.log(2 * math.pi) + math.log(16 / 4_000)
    truth = float(jax.nn.logsumexp(log_likelihood + prior[None], 1).mean())

    def bounds(count, seed):
        metrics = losses[count](variables, batch, jax.random.key(seed), False).metrics
        return float(metrics["elbo"].value()), float(metrics[f"iwae{count}"].value())

    objectives = {count: elbo(model, importance_samples=count) for count in (1, 8, 512)}
    losses = {count: jax.jit(o.loss, static_argnums=3) for count, o in objectives.items()}
    estimates = np.array([[bounds(count, seed) for seed in range(30)] for count in losses])
    loose, *tight = estimates[:, :, 0].mean(), *estimates[:, :, 1].mean(1)
    error = estimates[2, :, 1].std(ddof=1) / math.sqrt(30)  # the standard error of the last mean
    assert error < 5e-3
    assert loose < tight[1] < tight[2] < truth + 3 * error
    assert tight[0] == pytest.approx(loose, abs=0.3)
    assert tight[2] == pytest.approx(truth, abs=0.01)


def test_inputs_of_a_denoising_autoencoder_are_noisy_in_training_only():
    objective = autoencode(Autoencoder((4, 4, 1), 3, hidden=(8,)), noise=0.5)
    batch = {"x": jax.random.uniform(jax.random.key(1), (6, 4, 4, 1))}
    variables = jax.jit(objective.init)(jax.random.key(0), batch)

    def loss(train, seed):
        return float(objective.loss(variables, batch, jax.random.key(seed), train).loss.value())

    assert loss(True, 0) != loss(True, 1)
    assert loss(False, 0) == loss(False, 1)


class Oracle(nn.Module):
    """The exact prediction where all data are one image, `grey` everywhere."""

    schedule: object
    prediction: str
    grey: float = 0.75

    @nn.compact
    def __call__(self, x, t, train=False, mask=None):
        self.param("unused", nn.initializers.zeros, (1,))
        t, data = t[:, None, None, None], 2 * self.grey - 1
        noise = (x - self.schedule.alpha(t) * data) / self.schedule.sigma(t)
        if self.prediction == "noise":
            return noise
        return self.schedule.alpha_rate(t) * data + self.schedule.sigma_rate(t) * noise


@pytest.mark.parametrize(
    "schedule", [cosine_schedule, rectified_flow], ids=["cosine_schedule", "rectified_flow"]
)
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_with_exact_predictions_gives_the_data(schedule, prediction, eta):
    model = Oracle(schedule, prediction)
    objective = diffusion(model, schedule, prediction, sampling_steps=7, eta=eta)
    batch = {"x": jnp.full((3, 4, 4, 1), 0.75)}
    variables = objective.init(jax.random.key(0), batch)
    assert float(objective.loss(variables, batch, jax.random.key(KEY), True).loss.value()) < 1e-6
    z = objective.sample_latent(jax.random.key(KEY), batch)
    samples = objective.decode(variables, z, batch, jax.random.key(KEY))
    np.testing.assert_allclose(samples, batch["x"], atol=1e-4)


def test_ddim_with_a_model_that_errs():
    """Where the model predicts no noise, the first step divides by alpha, others do nothing."""

    class Silent(nn.Module):
        @nn.compact
        def __call__(self, x, t, train=False, mask=None):
            return x * self.param("zero", nn.initializers.zeros, (1, 1, 1, 1))

    objective = diffusion(Silent(), prediction="noise", sampling_steps=2)
    batch = {"x": jnp.zeros((2, 4, 4, 1))}
    variables = objective.init(jax.random.key(0), batch)
    z = 1e-4 * jax.random.normal(jax.random.key(KEY), batch["x"].shape)
    first = math.cos(0.999 * math.pi / 2)
    samples = objective.decode(variables, z, batch, jax.random.key(KEY))
    np.testing.assert_allclose(2 * samples - 1, z / first, atol=1e-5)


def test_without_clip_sampling_of_flow_matching_is_euler_s_method():
    """From the data's estimate -1.996 on: clipped to -1, the first step goes half as far."""

    class Field(nn.Module):
        @nn.compact
        def __call__(self, x, t, train=False, mask=None):
            scale = self.param("scale", nn.initializers.constant(4.0), (1,))
            return jnp.zeros_like(x) + (scale * (t - 0.5))[:, None, None, None]

    batch = {"x": jnp.zeros((2, 4, 4, 1))}
    times = np.linspace(0.999, 0, 3)
    euler = -sum(4 * (t - 0.5) * (t - s) for t, s in itertools.pairwise(times))
    for clip in (True, False):
        objective = diffusion(Field(), rectified_flow, sampling_steps=2, clip=clip)
        variables = objective.init(jax.random.key(0), batch)
        samples = objective.decode(variables, batch["x"], batch, jax.random.key(KEY))
        assert np.allclose(2 * samples - 1, euler, atol=1e-5) != clip


def test_classifier_free_guidance_extrapolates_from_no_label_to_the_label():
    class Labelled(nn.Module):
        """The prediction depends on the label alone; 3 is no label."""

        @nn.compact
        def __call__(self, x, t, y, train=False, mask=None):
            table = self.param("table", lambda _: jnp.array([0.1, 0.2, 0.3, 0.0]))
            return jnp.broadcast_to(table[y][:, None, None, None], x.shape)

    batch = {"x": jnp.zeros((3, 4, 4, 1)), "y": jnp.arange(3, dtype=jnp.int32)}
    z = jnp.zeros((3, 4, 4, 1))

    def sample(prediction, guidance_scale):
        objective = diffusion(
            Labelled(),
            rectified_flow,
            prediction,
            classes=3,
            guidance_scale=guidance_scale,
            sampling_steps=1,
        )
        variables = objective.init(jax.random.key(0), batch)
        return 2 * objective.decode(variables, z, batch, jax.random.key(KEY)) - 1

    # At time 0.999 the data are -0.999 / 0.001 times the predicted noise, clipped: all black.
    assert (sample("noise", 1.0) == -1).all()
    twice, once = sample("velocity", 2.0), sample("velocity", 1.0)
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
    assert (once[:, 0, 0, 0] == jnp.sort(once[:, 0, 0, 0])[::-1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adversarial(Generator((8, 8, 1)), Discriminator(), 0), "latent_size"),
        (lambda: autoencode(Autoencoder((4, 4, 1), 2), -1.0), "standard deviation"),
        (lambda: elbo(VAE((4, 4, 1), 2), beta=-1.0), "beta"),
        (lambda: jdl.objectives.gaussian(0.0), "above 0"),
        (lambda: diffusion(None, prediction="data"), "noise"),
        (lambda: diffusion(None, sampling_steps=0), "sampling_steps"),
        (lambda: diffusion(None, eta=2.0), "eta"),
        (lambda: diffusion(None, guidance_scale=3.0), "give classes"),
        (lambda: diffusion(None, classes=9, label_dropout=0, guidance_scale=3), "a label_dropout"),
        (lambda: jdl.optim.update_every(0, None), "1 step or more"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "bounds", "message"),
    [
        (autoencode(Autoencoder((4, 4, 1), 2)), {}, "give it the shape"),
        (elbo(VAE((8, 8, 1), 2)), {"x": (0, 16)}, "scale it"),
        (diffusion(Oracle(cosine_schedule, "noise")), {"x": (0, 255)}, "scale it"),
        (adversarial(Generator((4, 4, 1), (4,)), Discriminator((4,))), {}, "The generator gives"),
    ],
)
def test_data_that_do_not_fit_are_refused(objective, bounds, message):
    with pytest.raises(jdl.Error, match=message):
        objective.check(IMAGES, bounds)
