"""FCOS: object detection without anchors, by convolutions over a feature pyramid."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Conv, group_norm

PRIOR = 0.01  # the probability of each class at each place, before training (Lin et al., 2017)


class FCOS(nn.Module):
    """Fully convolutional one-stage object detection (FCOS; Tian et al., 2019).

    Images x (B, H, W, C) give a map (B, h, w, classes + 5) for each of the last `levels` stages of
    the `backbone`: for each place the logits of the classes, then what the distances to the left,
    top, right and bottom edge of its object are made of, then the logit of its centerness.
    `jdl.objectives.detect` trains it. The backbone gives the features (B, h, w, c) of its stages,
    from fine to coarse, as `ResNet(None, ...)` does. All levels share the head: two towers of
    `depth` convolutions with group normalization, for classes and for boxes.
    """

    classes: int
    backbone: nn.Module
    channels: int = 64
    depth: int = 2
    levels: int = 3

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """x (B, H, W, C) to a map (B, h, w, classes + 5) of each level, from fine to coarse."""
        features = self.backbone(x, train, mask)[-self.levels :]
        head = DetectionHead(self.classes, self.channels, self.depth)
        return tuple(map(head, FeaturePyramid(self.channels)(features)))


class FeaturePyramid(nn.Module):
    """Feature pyramid network (FPN; Lin et al., 2017): features of all scales that know the coarse.

    Each is projected to `channels`, and from the coarsest on, the next finer one adds what is above
    it, enlarged to its size. A 3 x 3 convolution of each follows.
    """

    channels: int

    @nn.compact
    def __call__(self, features: Sequence[jax.Array]) -> list[jax.Array]:
        """Features (B, h, w, c), from fine to coarse, to the same sizes with `channels`."""
        above, sums = None, []
        for x in reversed(features):
            x = Conv(self.channels, (1, 1))(x)
            above = x if above is None else x + _enlarge(above, x.shape)
            sums.append(above)
        return [Conv(self.channels)(x) for x in reversed(sums)]


class DetectionHead(nn.Module):
    """The head of a detector: a tower of convolutions for the classes, and one for the boxes."""

    classes: int
    channels: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (B, h, w, channels) to (B, h, w, classes + 5)."""
        of_class, of_box = self._tower(x), self._tower(x)
        prior = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        small = nn.initializers.normal(0.01)
        logits = Conv(self.classes, kernel_init=small, bias_init=prior, name="logits")(of_class)
        box = Conv(5, kernel_init=small, name="box")(of_box)
        return jnp.concatenate([logits, box], -1)

    def _tower(self, x: jax.Array) -> jax.Array:
        for _ in range(self.depth):
            x = Conv(self.channels, use_bias=False)(x)
            x = nn.relu(group_norm(x))
        return x


def _enlarge(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x (B, h, w, C) with every value two times in both directions, cut to the shape."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, : shape[1], : shape[2]]
