"""Generative adversarial networks (GANs): generator and discriminator trained by one objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.layers.frozen_batch_norm import called_as_network
from jdl.objectives import model_call
from jdl.objectives.networks import join_networks, of_network
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Objective,
    Variables,
)

GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # the two modules' names in a collection


@dataclass(frozen=True)
class GANLoss:
    """The losses (B,) of a GAN's discriminator (the critic of a Wasserstein GAN) and generator.

    Both are functions of the discriminator's logits (B,): `discriminator_loss(real, fake)` of
    those of real and generated rows, `generator_loss(fake)`. `gradient_penalty_weight` is that of
    the gradient penalty (WGAN-GP; Gulrajani et al., 2017): (|gradient of the discriminator| - 1)^2
    at random points between real and generated rows. It needs a discriminator without BatchNorm,
    whose logit of a row depends on that row alone.
    """

    discriminator_loss: Callable[[Array, Array], Array]
    generator_loss: Callable[[Array], Array]
    gradient_penalty_weight: float = 0.0


non_saturating = GANLoss(
    discriminator_loss=lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
    generator_loss=lambda fake: jax.nn.softplus(-fake),
)
"""The non-saturating GAN loss: the cross-entropy of real or fake (Goodfellow et al., 2014)."""

hinge_gan = GANLoss(
    discriminator_loss=lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
    generator_loss=lambda fake: -fake,
)
"""The hinge GAN loss (Lim and Ye, 2017; Tran et al., 2017)."""

wasserstein = GANLoss(
    discriminator_loss=lambda real, fake: fake - real,
    generator_loss=lambda fake: -fake,
    gradient_penalty_weight=10.0,
)
"""The Wasserstein GAN loss (Arjovsky et al., 2017) with gradient penalty (WGAN-GP).

The discriminator is called a critic there: its outputs are scores, whose difference between real
and generated rows estimates the Wasserstein distance.
"""


def adversarial(
    generator: Any,
    discriminator: Any,
    latent_size: int = 64,
    loss: GANLoss = non_saturating,
) -> Adversarial:
    """Generative adversarial network (GAN; Goodfellow et al., 2014), as one objective.

    The generator maps latents (B, latent_size) of standard normal numbers to rows like x (B, ...);
    the discriminator maps rows to one logit each, (B, 1). Their parameters are under "generator"
    and "discriminator", and `jdl.optim.per_module(generator=..., discriminator=...)` gives each
    its optimizer. Both are updated in every step, with gradients taken at the same parameters:
    `stop_gradient` keeps each loss from the other's parameters, so the gradient of the sum has
    both gradients side by side. Metrics: `discriminator_loss`, `generator_loss`, and `real_logit`
    and `fake_logit`, the discriminator's mean logits of real and of generated rows. Their sum, the
    loss, does not measure how good the generated rows are: see `jdl frechet`.
    """
    if latent_size < 1:
        raise Error(f"latent_size, the length of a latent, must be at least 1, got {latent_size}.")
    return Adversarial(generator, discriminator, latent_size, loss)


@dataclass(frozen=True, eq=False)
class Adversarial(Objective):
    """A generative adversarial network; see `adversarial`."""

    generator: Any
    discriminator: Any
    latent_size: int
    gan_loss: GANLoss

    def init(self, key: Key, batch: Batch) -> Variables:
        """The initial variables of both, by collection and then by module."""
        x = model_call.column(batch)
        z = jnp.zeros((len(x), self.latent_size))
        modules = {
            GENERATOR: model_call.init(self.generator, stream(key, "generator"), batch, z),
            DISCRIMINATOR: model_call.init(
                self.discriminator, stream(key, "discriminator"), batch, x
            ),
        }
        return {"params": {}} | join_networks(modules)

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The sum of the discriminator's and the generator's mean losses, and the metrics."""
        x, mask = model_call.column(batch), batch.get("mask")
        generator = of_network(variables, GENERATOR)
        discriminator = of_network(variables, DISCRIMINATOR)

        z = self.sample_latent(stream(key, "latent"), batch)
        with called_as_network(GENERATOR):
            fake_x, generator_state = model_call.apply(
                self.generator, generator, (z,), batch, stream(key, "generator"), train
            )
        constant_x = jax.lax.stop_gradient(fake_x)
        real, state = self._logits(discriminator, x, batch, stream(key, "real"), train)
        updated = {**discriminator, **state}
        fake, state = self._logits(updated, constant_x, batch, stream(key, "fake"), train)

        discriminator_loss = self.gan_loss.discriminator_loss(real, fake)
        if self.gan_loss.gradient_penalty_weight:
            penalty = self._gradient_penalty(discriminator, x, constant_x, batch, key, train)
            discriminator_loss = (
                discriminator_loss + self.gan_loss.gradient_penalty_weight * penalty
            )

        # Once more, for a gradient to the generator alone: above, it went to the discriminator.
        constant = jax.lax.stop_gradient(discriminator)
        logits, _ = self._logits(constant, fake_x, batch, stream(key, "fake"), train)
        generator_loss = self.gan_loss.generator_loss(logits)

        metrics: Metrics = {
            "discriminator_loss": Mean.of(discriminator_loss, mask),
            "generator_loss": Mean.of(generator_loss, mask),
            "real_logit": Mean.of(real, mask),
            "fake_logit": Mean.of(fake, mask),
        }
        model_state = join_networks({GENERATOR: generator_state, DISCRIMINATOR: state})
        return LossOutput(Mean.of(discriminator_loss + generator_loss, mask), metrics, model_state)

    def _logits(
        self, variables: Variables, x: Array, batch: Batch, key: Key, train: bool
    ) -> tuple[Array, Variables]:
        """The discriminator's logits (B,) of rows x (B, ...), and its new model state."""
        with called_as_network(DISCRIMINATOR):
            logits, model_state = model_call.apply(
                self.discriminator, variables, (x,), batch, key, train
            )
        return logits[:, 0], model_state

    def _gradient_penalty(
        self, variables: Variables, real: Array, fake: Array, batch: Batch, key: Key, train: bool
    ) -> Array:
        """(|gradient of the discriminator| - 1)^2, (B,), at random points between both rows."""

        def total(x: Array) -> Array:
            logits, _ = self._logits(variables, x, batch, stream(key, "gradient_penalty"), train)
            return logits.sum()

        shape = (len(real),) + (1,) * (real.ndim - 1)
        weight = sample_rows(jax.random.uniform, stream(key, "interpolate"), shape)
        gradient = jax.grad(total)(weight * real + (1 - weight) * fake)
        # 1e-12, because the gradient of the square root is infinite at 0.
        norm = jnp.sqrt(jnp.square(gradient).reshape(len(real), -1).sum(-1) + 1e-12)
        return jnp.square(norm - 1)

    def sample_latent(self, key: Key, batch: Batch) -> Array:
        """Standard normal latents (B, latent_size), one for each row of the batch."""
        shape = (len(model_call.column(batch)), self.latent_size)
        return sample_rows(jax.random.normal, key, shape)

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Generated rows (B, ...) from latents z (B, latent_size)."""
        generator = of_network(variables, GENERATOR)
        return model_call.evaluate(self.generator, generator, batch, (z,))

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the generator's or the discriminator's output has the wrong shape."""
        x = model_call.column(spec).shape
        z = jax.eval_shape(lambda: jnp.zeros((x[0], self.latent_size)))
        generated = model_call.output_shape(self.generator, {"x": z})
        logits = model_call.output_shape(self.discriminator, spec)
        if generated != x or logits != (x[0], 1):
            raise Error(
                f"The generator gives {generated} and the discriminator {logits}; for x of shape "
                f"{x} they must give {x} and {(x[0], 1)}."
            )
