"""The two convolutional players of a generative adversarial network (Radford et al., 2016)."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jdl.models.autoencoder import Decoder, Encoder


class Generator(nn.Module):
    """Normal numbers z (B, latent) to images (B, *shape) from 0 to 1, through convolutions with BatchNorm.

    The `channels` are those of the images before each is doubled, from the smallest on, and `fine` those at full size.
    """

    shape: Sequence[int]
    channels: Sequence[int] = (128, 64)
    fine: int = 0

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """z (B, latent) to (B, *shape)."""
        decoder = Decoder(self.shape, self.channels, batch_norm=True, fine=self.fine, name="decoder")
        return jax.nn.sigmoid(decoder(z, train, mask))


class Critic(nn.Module):
    """Images (B, H, W, C) to scores (B, 1), through convolutions of stride 2 and leaky ReLU.

    BatchNorm, as the paper has it, is off: a row's score then hangs on the row alone, as a penalty of the slope asks.
    Dropout after each convolution keeps it from being sure too soon.
    """

    channels: Sequence[int] = (64, 128)
    batch_norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """x (B, H, W, C) to (B, 1)."""

        def leaky(x: jax.Array) -> jax.Array:
            return nn.leaky_relu(x, 0.2)

        options = {"batch_norm": self.batch_norm, "activation": leaky, "dropout": self.dropout}
        return Encoder(1, self.channels, name="encoder", **options)(2 * x - 1, train, mask)
