"""Pose ResNet: heat maps of keypoints from a backbone and a few upsampling convolutions."""

import flax.linen as nn
import jax

from jdl.layers import BatchNorm, Conv, pixel_shuffle


class PoseResNet(nn.Module):
    """Simple baseline of pose estimation (Xiao et al., 2018): a backbone, enlarged to heat maps.

    Images x (B, H, W, C) give a heat map of logits for each of the `keypoints`, (B, h, w, K), for
    `jdl.objectives.estimate_pose`. The `backbone` gives the features of its stages, as
    `ResNet(None, ...)` does; the last, coarsest ones are enlarged `doublings` times by a
    convolution with `channels` and pixel shuffle, in place of the paper's transposed convolutions,
    with batch normalization and ReLU: the paper's three bring a ResNet's stride of 32 to 4.
    """

    keypoints: int
    backbone: nn.Module
    channels: int = 256
    doublings: int = 3

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to the logits (B, h, w, keypoints)."""
        x = self.backbone(x, train, mask)[-1]
        for _ in range(self.doublings):
            x = pixel_shuffle(Conv(4 * self.channels, use_bias=False)(x))
            x = nn.relu(BatchNorm()(x, train, mask))
        small = nn.initializers.normal(0.001)
        return Conv(self.keypoints, (1, 1), kernel_init=small, name="heat_maps")(x)
