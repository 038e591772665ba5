"""The plain convolutional neural network (CNN): blocks of convolutions and pooling, then an MLP."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from jdl.layers import BatchNorm, Conv, Dropout, max_pool
from jdl.models.mlp import MLP


class CNN(nn.Module):
    """Convolutional neural network: blocks (channels, n) of n convolutions, then dense layers.

    x (B, H, W, C) gives (B, outputs). Each convolution has an activation, and BatchNorm before it;
    the last one of a block is pooled; dropout follows. Pooling comes before that BatchNorm and
    activation, which then have a quarter of the work: for max pooling and a monotonic activation
    such as ReLU, the order of the two makes no difference. With `outputs=None` it is an encoder: it
    gives the features of the last block, flattened, and has no dense layers. The arguments cover
    the classic plain networks:
    LeNet-like   CNN(10, blocks=((6, 1), (16, 1)), kernel=5, dense=(120, 84))
    VGG-like     CNN(10, blocks=((64, 2), (128, 2), (256, 3)), dense=(512,), batch_norm=True)
    """

    outputs: int | None
    blocks: Sequence[tuple[int, int]] = ((32, 1), (64, 1))
    kernel: int = 3
    dense: Sequence[int] = (128,)
    batch_norm: bool = False
    dropout: float = 0.0  # after every block
    dense_dropout: float = 0.0  # after every dense layer
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: Callable[[jax.Array], jax.Array] = max_pool

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        for channels, convolutions in self.blocks:
            for n in range(convolutions):
                # BatchNorm cancels a bias before it, whose gradient would be noise for Adam.
                x = Conv(channels, (self.kernel, self.kernel), use_bias=not self.batch_norm)(x)
                if n == convolutions - 1:
                    x = self.pool(x)
                if self.batch_norm:
                    x = BatchNorm()(x, train, mask)
                x = self.activation(x)
            x = Dropout(self.dropout)(x, train)
        if self.outputs is None:
            return x.reshape(x.shape[0], -1)
        head = MLP(self.outputs, self.dense, self.activation, self.dense_dropout, name="head")
        return head(x, train, mask)
