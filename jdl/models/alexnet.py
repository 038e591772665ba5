"""AlexNet: five convolutions, three of them with max pooling, and dense layers."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from jdl.layers import Conv, max_pool
from jdl.models.mlp import MLP


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky et al., 2012), in the one-tower form of Krizhevsky (2014).

    x (B, H, W, C) gives (B, outputs), from 15 x 15 pixels up; there is no local response
    normalization. The first convolution is 3 x 3. With `large_images` it is the published one, 11 x
    11 of stride 4: for 224 x 224 x 3 and 1000 classes that network has 61,100,840 parameters.
    """

    outputs: int
    channels: Sequence[int] = (64, 192, 384, 256, 256)
    dense: Sequence[int] = (4096, 4096)
    large_images: bool = False
    dropout: float = 0.5  # after every dense layer
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        kernels = (11 if self.large_images else 3, 5, 3, 3, 3)
        for n, (channels, kernel) in enumerate(zip(self.channels, kernels, strict=True)):
            stride = 4 if self.large_images and n == 0 else 1
            x = self.activation(Conv(channels, (kernel, kernel), stride)(x))
            if n in (0, 1, 4):
                x = max_pool(x, 3, 2)
        head = MLP(self.outputs, self.dense, self.activation, self.dropout, name="head")
        return head(x, train, mask)
