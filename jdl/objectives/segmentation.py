"""Semantic segmentation: the classes of an image's pixels, by cross-entropy and Dice loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.objectives.classification import Classification
from jdl.objectives.weights import ClassWeights, class_weights_of
from jdl.types import Array, Batch, Bounds, Error

VOID = 255  # what mask files have, by convention, where the class is not known


def segment(
    model: Any,
    dice: float = 1.0,
    class_weights: ClassWeights | None = None,
    row_weights: str | None = None,
) -> Segmentation:
    """Semantic segmentation: cross-entropy and `dice` times the Dice loss (Milletari et al., 2016).

    Images x (B, H, W, C) to logits (B, H, W, K), for labels y (B, H, W) from 0 to K - 1; pixels of
    the label -1 are unknown, and count nowhere. It is `classify` with the Dice loss besides: 1 less
    `soft_dice` of the image, to which a class of few pixels counts as much as any other. `dice=0`
    is the cross-entropy alone. The weights are those of `classify`.

    Metrics: the accuracy of pixels; in evaluation `iou`, the mean IoU, and the confusion matrix,
    whose method `iou` gives that of each class. Predictions: the label (B, H, W) and the
    probabilities (B, H, W, K) of each pixel.
    """
    if not 0 <= dice < float("inf"):
        raise Error(f"dice, the weight of the Dice loss, must be 0 or more, not {dice}.")
    weights = class_weights_of(class_weights)
    return Segmentation(model, None, 0.0, 0, weights, dice, row_weights=row_weights)


@dataclass(frozen=True, eq=False)
class Segmentation(Classification):
    """Semantic segmentation; see `segment`."""

    dice: float

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each image (B,): the mean cross-entropy of its pixels, and its Dice loss."""
        pixels, weights = super().losses(out, batch), self._pixel_weights(out, batch)
        total, weight = jnp.where(weights > 0, pixels * weights, 0).sum((1, 2)), weights.sum((1, 2))
        losses = total / jnp.where(weight > 0, weight, 1)
        if not self.dice:
            return losses
        return losses + self.dice * (1 - soft_dice(jax.nn.softmax(out), batch["y"]))

    def loss_weights(self, out: Array, batch: Batch) -> Array:
        """The weight of each image (B,), that of its known pixels.

        So the loss is a mean over pixels. They are summed by image first: a single sum of hundreds
        of thousands of numbers, nearly equal at first, would be inexact in float32.
        """
        return self._pixel_weights(out, batch).sum((1, 2))

    def _pixel_weights(self, out: Array, batch: Batch) -> Array:
        weights = super().loss_weights(out, batch)
        assert weights is not None  # a pixel may always be unknown
        return weights.astype(jnp.float32)

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if there is not one label for each pixel, from 0 to K - 1, or -1."""
        if len(shape) != 4:
            raise Error(
                f"segment needs a model with logits for every pixel, (B, H, W, K), but this one "
                f"gives {shape}: jdl.models.unet.UNet(outputs=K) does."
            )
        labels = spec.get("y")
        if labels is not None and labels.shape == shape:
            raise Error(
                f"segment takes a class for each pixel, y {shape[:-1]}, not probabilities of "
                f"shape {shape}: give y.argmax(-1), or take jdl.objectives.classify."
            )
        if bounds.get("y", (0, 0))[1] == VOID >= shape[-1]:
            raise Error(
                f"The labels y go up to {VOID}, which often marks pixels of unknown class: write "
                f"-1 there, np.where(y == {VOID}, -1, y)."
            )
        super().check_targets(shape, spec, bounds)


def soft_dice(probability: Array, labels: Array) -> Array:
    """The soft Dice coefficient of each image (B,), as in V-Net (Milletari et al., 2016).

    Of probabilities p (B, H, W, K) and labels y (B, H, W), the one-hot g: 2 sum(p g) / (sum(p^2) +
    sum(g^2)) over the known pixels of an image, for each class, and its mean over the classes that
    occur in the image; 1 where no pixel is known.
    """
    known = (labels >= 0)[..., None]
    probability = jnp.where(known, probability, 0)
    truth = jax.nn.one_hot(labels, probability.shape[-1], dtype=probability.dtype)  # of -1: zeros
    both = (probability * truth).sum((1, 2))
    total = (probability**2).sum((1, 2)) + truth.sum((1, 2))
    occurs = truth.any((1, 2))
    of_classes = jnp.where(occurs, 2 * both / jnp.where(occurs, total, 1), 0)
    count = occurs.sum(1).astype(of_classes.dtype)
    return jnp.where(count > 0, of_classes.sum(1) / count.clip(1), 1)
