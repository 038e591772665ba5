"""Convolution layers: `Conv`, and `ConvNorm` with batch normalization and an activation."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jdl.layers.conv import convolution
from jdl.layers.norm import BatchNorm


class Conv(nn.Conv):
    """2-D convolution: `flax.linen.Conv` by `convolution`, by default 3 x 3, He initialization.

    The initialization is that of He et al. (2015), for ReLU; all options are those of Flax.
    """

    kernel_size: int | Sequence[int] = (3, 3)
    kernel_init: Callable[..., Any] = nn.initializers.he_normal()
    conv_general_dilated: Any = convolution


class ConvNorm(nn.Module):
    """A `kernel` x `kernel` convolution, batch normalization, and an activation unless it is None.

    With `groups` equal to its input's channels the convolution is depthwise. By default the border
    is padded as TensorFlow does ("SAME"): with stride 2 and an even side by one more at the end.
    `symmetric_padding` is PyTorch's, the same on every side; weights that were trained with one are
    silently wrong with the other.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    scale_init: Callable[..., Any] = nn.initializers.ones  # of BatchNorm
    symmetric_padding: bool = False
    epsilon: float = 1e-5  # of BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, H, W, C) to (B, H / stride, W / stride, channels), rounded up."""
        # BatchNorm cancels a bias before it: its gradient is rounding noise, which Adam inflates.
        conv = Conv(
            self.channels,
            (self.kernel,) * 2,
            self.stride,
            padding=self.kernel // 2 if self.symmetric_padding else "SAME",
            feature_group_count=self.groups,
            use_bias=False,
        )
        norm = BatchNorm(epsilon=self.epsilon, scale_init=self.scale_init)
        x = norm(conv(x), train, mask)
        return self.activation(x) if self.activation else x
