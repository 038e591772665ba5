"""The two convolutional players of a generative adversarial network (Radford et al., 2016)."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jdl.layers import Conv
from jdl.models.autoencoder import Decoder, Encoder


class Generator(nn.Module):
    """Normal numbers z (B, latent) to images (B, *shape) from 0 to 1, through convolutions with BatchNorm.

    The `channels` are those of the images before each is doubled, from the smallest on, and `fine` those at full size.
    """

    shape: Sequence[int]
    channels: Sequence[int] = (128, 64)
    fine: int = 0

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """z (B, latent) to (B, *shape)."""
        decoder = Decoder(
            self.shape, self.channels, batch_norm=True, fine=self.fine, name="decoder"
        )
        return jax.nn.sigmoid(decoder(z, train, mask))


class Critic(nn.Module):
    """Images (B, H, W, C) to scores (B, 1), through convolutions of stride 2 and leaky ReLU.

    BatchNorm, as the paper has it, is off: a row's score then hangs on the row alone, as a penalty of the slope asks.
    """

    channels: Sequence[int] = (64, 128)
    batch_norm: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, 1)."""

        encoder = Encoder(
            1, self.channels, batch_norm=self.batch_norm, activation=leaky, name="encoder"
        )
        return encoder(2 * x - 1, train, mask)


class SpectralCritic(nn.Module):
    """Images (B, H, W, C) to scores (B, 1), by layers none of which stretches what it reads (Miyato et al., 2018).

    For each of the `channels` a convolution of stride 2, and behind all but the first another one; leaky ReLU. The
    greatest singular value of each kernel, by which it is divided, is followed by a step of power iteration a reading.
    """

    channels: Sequence[int] = (64, 128)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, 1)."""

        def even(layer: nn.Module, x: jax.Array) -> jax.Array:
            return nn.SpectralNorm(layer, collection_name="batch_stats")(x, update_stats=train)

        x = 2 * x - 1
        for n, channels in enumerate(self.channels):
            x = leaky(even(Conv(channels, (4, 4), strides=2), x))
            x = leaky(even(Conv(channels), x)) if n else x
        return even(nn.Dense(1, name="out"), x.reshape(len(x), -1))


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)
