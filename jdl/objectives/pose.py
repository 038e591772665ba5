"""Pose estimation: keypoints by heat maps, with a spatial softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.metrics.keypoints import known_keypoints, pck
from jdl.objectives import model_call
from jdl.objectives.supervised import given
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Metrics, Variables

NEEDED = (
    "estimate_pose needs the column keypoints (B, K, 3): x and y in pixels, and the visibility, "
    "which is 0 where a keypoint is not known, and 1 or 2 where it is"
)


def estimate_pose(
    model: Any, sigma: float = 1.0, alpha: float = 0.1, size: str | None = None
) -> PoseEstimation:
    """Pose estimation (keypoint detection) by heat maps (Tompson et al., 2014).

    For images x (B, H, W, C) with one object each, and the column `keypoints` (B, K, 3): x and y in
    pixels, from 0 at the left and upper edge (add 0.5 to numbers of pixels), and the visibility of
    COCO, 0 where a keypoint is not known. Keypoint k is always the same part of the object, such as
    its left elbow. The model, such as `jdl.models.pose_resnet.PoseResNet`, gives a heat map of
    logits for each keypoint, (B, h, w, K), of a stride that divides the images.

    The loss is the cross-entropy of the softmax over a map's places (spatial softmax, as the
    keypoints of Mask R-CNN: He et al., 2017) with a Gaussian of `sigma` places around the keypoint.
    The mean squared error of Gaussian maps, which others take, is small for a map of zeros. It is
    the mean over the known keypoints. Predictions: `keypoints`
    (B, K, 2), in pixels: the likeliest place, and within 2 `sigma` of it the mean place (a local
    soft-argmax), finer than the map; `score` (B, K), the probability of that window, given that the
    keypoint is in the image. Metric: `pck`, as of `jdl.metrics.pck`, with its `alpha` and `size`.
    """
    if not (0 < sigma < math.inf and 0 < alpha < math.inf):
        raise Error(f"estimate_pose takes sigma and alpha above 0, not {sigma} and {alpha}.")
    return PoseEstimation(model, sigma, alpha, size)


@dataclass(frozen=True, eq=False)
class PoseEstimation(model_call.ModelObjective):
    """Pose estimation; see `estimate_pose`."""

    sigma: float
    alpha: float
    size: str | None

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean cross-entropy of the known keypoints' heat maps, and the PCK."""
        inputs = model_call.model_inputs(self.model, batch)
        logits, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        true = model_call.column(batch, "keypoints").astype(jnp.float32)
        target = gaussian_maps(
            true[..., :2] / _stride(logits, batch), logits.shape[1:3], self.sigma
        )
        losses = jax.nn.logsumexp(logits, (1, 2)) - (target * logits).sum((1, 2))
        found = self._predictions(logits, batch)
        scores: Metrics = {"pck": pck(found, batch, self.alpha, self.size)}
        return LossOutput(Mean.of(losses, known_keypoints(batch)), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The keypoints (B, K, 2) in pixels, and their scores (B, K)."""
        return self._predictions(model_call.evaluate(self.model, variables, batch), batch)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if keypoints do not fit the images, or the model's maps do not."""
        shape = model_call.output_shape(self.model, spec)
        _check_maps(shape, model_call.column(spec).shape)
        _check_keypoints(spec, bounds, shape[-1])
        if self.size is None and shape[-1] == 1:
            raise Error("One keypoint does not tell the object's size: name its column by size=...")
        if self.size is not None and model_call.column(spec, self.size).ndim != 1:
            raise Error(f"The column {self.size} must have a number for each row, (B,).")

    def _predictions(self, logits: Array, batch: Batch) -> Batch:
        places, score = soft_argmax(logits, math.ceil(2 * self.sigma))
        return {"keypoints": places * _stride(logits, batch), "score": score}


def gaussian_maps(points: Array, sides: tuple[int, ...], sigma: float) -> Array:
    """Heat maps (B, h, w, K) with a Gaussian around each of the points (B, K, 2), x and y.

    Points are in places of the map, whose first one is from 0 to 1. The values of a map sum to 1,
    also where the Gaussian is cut off by the edge.
    """

    def along(side: int, center: Array) -> Array:  # (B, side, K)
        away = (jnp.arange(side, dtype=center.dtype) + 0.5)[None, :, None] - center[:, None]
        return jax.nn.softmax(-jnp.square(away / sigma) / 2, axis=1)

    of_y, of_x = along(sides[0], points[..., 1]), along(sides[1], points[..., 0])
    return of_y[:, :, None] * of_x[:, None]


def soft_argmax(logits: Array, radius: int) -> tuple[Array, Array]:
    """The likeliest point (B, K, 2) of each heat map (B, h, w, K), x and y, and its score (B, K).

    It is the mean of the places within `radius` rows and columns of the likeliest one, by their
    probabilities, of which the score is the sum.
    """
    rows, height, width, maps = logits.shape
    probability = jax.nn.softmax(logits, (1, 2))
    peak = logits.reshape(rows, height * width, maps).argmax(1)[:, None]  # (B, 1, K)
    peak_y, peak_x = (place.astype(jnp.float32) for place in (peak // width, peak % width))
    y, x = (jnp.arange(side, dtype=jnp.float32)[None, :, None] for side in (height, width))
    near_y = jnp.abs(y - peak_y) <= radius  # (B, h, K)
    near_x = jnp.abs(x - peak_x) <= radius
    window = jnp.where(near_y[:, :, None] & near_x[:, None], probability, 0)
    score = window.sum((1, 2))
    mean_y = (window.sum(2) * (y + 0.5)).sum(1) / score
    mean_x = (window.sum(1) * (x + 0.5)).sum(1) / score
    return jnp.stack([mean_x, mean_y], -1), score


def _stride(logits: Array, batch: Batch) -> int:
    """Pixels between neighboring places of the maps."""
    return model_call.column(batch).shape[1] // logits.shape[1]


def _check_maps(shape: tuple[int, ...], images: tuple[int, ...]) -> None:
    if len(shape) != 4 or len(images) != 4:
        raise Error(
            "estimate_pose needs images x (B, H, W, C) and a model with a heat map for each "
            f"keypoint, (B, h, w, K), such as jdl.models.pose_resnet.PoseResNet; x is {images}, "
            f"and the model gives {shape}."
        )
    (height, width), (h, w) = images[1:3], shape[1:3]
    if height % h or width % w or height // h != width // w:
        raise Error(
            f"The images are {height} x {width} pixels, and the model's heat maps {h} x {w}: pad "
            "or resize the images, so that both sides are multiples of its stride, such as 32."
        )


def _check_keypoints(spec: Batch, bounds: Bounds, count: int) -> None:
    """Raises `Error` if the column keypoints has not x, y and visibility of `count` keypoints."""
    if "keypoints" not in spec:
        raise Error(f"{NEEDED}, but there is no such column.")
    points = spec["keypoints"]
    if points.ndim != 3 or points.shape[-1] != 3:
        raise Error(f"{NEEDED}, but it is {given(points)}.")
    if points.shape[1] != count:
        raise Error(
            f"There are {points.shape[1]} keypoints, and the model gives {count} heat maps: it "
            "needs one for each."
        )
    height, width = spec["x"].shape[1:3]
    low, high = bounds.get("keypoints", (0, 0))
    if low < 0 or high > max(height, width):
        raise Error(
            f"The keypoints have numbers from {low:g} to {high:g}, which are outside of images of "
            f"{height} x {width} pixels: scale them as the images, and give those that are out of "
            "them three zeros."
        )
