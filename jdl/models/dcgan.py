"""DCGAN: convolutional generator and discriminators of generative adversarial networks (GAN)."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jdl.layers import Conv
from jdl.models.autoencoder import Decoder, Encoder


class Generator(nn.Module):
    """DCGAN generator (Radford et al., 2016): latents z (B, K) to images (B, *shape) from 0 to 1.

    Convolutions with BatchNorm. The `channels` are those of the feature maps before each doubling
    of their size, smallest first; `full_size_channels` adds a convolution at the full size.
    """

    shape: Sequence[int]
    channels: Sequence[int] = (128, 64)
    full_size_channels: int = 0

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """z (B, K) to (B, *shape)."""
        decoder = Decoder(
            self.shape,
            self.channels,
            batch_norm=True,
            full_size_channels=self.full_size_channels,
            name="decoder",
        )
        return jax.nn.sigmoid(decoder(z, train, mask))


class Discriminator(nn.Module):
    """DCGAN discriminator (critic): images (B, H, W, C) to scores (B, 1).

    Convolutions of stride 2 and leaky ReLU. BatchNorm, as the paper has it, is off by default: the
    score of a row then depends on that row alone, as a gradient penalty needs.
    """

    channels: Sequence[int] = (64, 128)
    batch_norm: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) from 0 to 1 to (B, 1)."""
        encoder = Encoder(
            1, self.channels, batch_norm=self.batch_norm, activation=_leaky_relu, name="encoder"
        )
        return encoder(2 * x - 1, train, mask)


class SpectralNormDiscriminator(nn.Module):
    """Discriminator with spectral normalization (SN-GAN, Miyato et al., 2018).

    Images (B, H, W, C) give scores (B, 1). Each of the `channels` has a 4 x 4 convolution of stride
    2 and, except the first, a 3 x 3 one after it; leaky ReLU. Each kernel is divided by its largest
    singular value, which limits the layer's Lipschitz constant. That value is estimated by a step
    of power iteration in each training step, and is in the collection "batch_stats".
    """

    channels: Sequence[int] = (64, 128)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) from 0 to 1 to (B, 1)."""
        x = 2 * x - 1
        for n, channels in enumerate(self.channels):
            x = _leaky_relu(_spectral_norm(Conv(channels, (4, 4), strides=2), x, train))
            x = _leaky_relu(_spectral_norm(Conv(channels), x, train)) if n else x
        return _spectral_norm(nn.Dense(1, name="out"), x.reshape(x.shape[0], -1), train)


def _spectral_norm(layer: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    """The layer with spectral normalization, applied to x, within a compact method."""
    return nn.SpectralNorm(layer, collection_name="batch_stats")(x, update_stats=train)


def _leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)
