"""LeNet-5: the convolutional network for handwritten digits."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jdl.layers import Conv, avg_pool
from jdl.models.mlp import MLP


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al., 1998): two convolutions with average pooling, then dense layers.

    x (B, 28, 28, 1) gives (B, outputs); 61,706 parameters for 10 outputs. The paper's images are 32
    x 32 with an empty border, which is the padding of the first convolution here. Unlike the
    paper, and as usual today, the second convolution is connected to all six channels, and the last
    layer is dense instead of radial basis functions.
    """

    outputs: int
    activation: Callable[[jax.Array], jax.Array] = nn.tanh
    pool: Callable[[jax.Array], jax.Array] = avg_pool

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        for channels, padding in ((6, "SAME"), (16, "VALID")):
            x = self.pool(self.activation(Conv(channels, (5, 5), padding=padding)(x)))
        return MLP(self.outputs, (120, 84), self.activation, name="head")(x, train, mask)
