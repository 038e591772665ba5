"""Object detection without anchors (FCOS), by focal loss and generalized IoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdl import metrics
from jdl.boxes import area, clip, giou, non_maximum_suppression
from jdl.objectives import model_call
from jdl.objectives.supervised import given
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Metrics,
    Variables,
    sides_of,
)

RADIUS = 1.5  # strides from an object's middle within which places stand for it
CANDIDATES = 3  # times the limit: boxes that are compared by non-maximum suppression


def detect(
    model: Any,
    extent: float = 4.0,
    min_score: float = 0.05,
    max_iou: float = 0.6,
    limit: int = 100,
) -> Detection:
    """Object detection without anchors (anchor-free): FCOS (Tian et al., 2019).

    For images x (B, H, W, C) of which several objects are wanted, each with its class and its box:
    the columns `boxes` (B, T, 4), the left, top, right and bottom edge (x0, y0, x1, y1) in pixels,
    and y (B, T), the labels from 0 to K - 1, or -1 where there is no further object. A box without
    area counts nowhere either. The model, such as `jdl.models.fcos.FCOS`, gives maps of different
    strides, (B, h, w, K + 5) each.

    A place of a map stands for an object if it is within 1.5 strides of the middle of the box, and
    in it, and the farthest edge is within `extent` strides, the regression range, but not within
    that of a finer map; of several objects, for the smallest. The loss is the sigmoid focal loss of
    the classes at all places (Lin et al., 2017), and at those of objects 1 - GIoU of the box
    (Rezatofighi et al., 2019) and the cross-entropy of the centerness, divided by the number of
    those places in the whole batch; an image without any counts as one.

    Predictions are the boxes (B, `limit`, 4) of at least `min_score`, best first, that non-maximum
    suppression leaves at `max_iou`; their label and score (B, `limit`), padded with -1 and 0. The
    score is the root of the class's probability times the centerness. Metrics: the parts of the
    loss; in evaluation `map` and `map_50`, as of `jdl.metrics.mean_average_precision`.
    """
    if not (extent > 0 and 0 < min_score < 1 and 0 < max_iou <= 1 and limit >= 1):
        raise Error(
            "detect takes an extent above 0, a min_score between 0 and 1, a max_iou above 0 and "
            f"up to 1, and a limit of 1 or more, not {extent}, {min_score}, {max_iou}, {limit}."
        )
    return Detection(model, extent, min_score, max_iou, limit)


class Places(NamedTuple):
    """The places (L,) of all maps, at which a model finds objects."""

    center: Array  # (L, 2): x and y in pixels
    stride: Array  # (L,): pixels between neighbors, of float32 as are the others
    nearest: Array  # how far away, in pixels, the farthest edge of its objects is at least ...
    farthest: Array  # ... and at most


class Targets(NamedTuple):
    """What the places (L,) of an image stand for."""

    positive: Array  # whether it is an object
    label: Array  # the object's label; -1: none
    boxes: Array  # (L, 4): its box
    centerness: Array  # from 0 at its edges to 1 in its middle


@dataclass(frozen=True, eq=False)
class Detection(model_call.ModelObjective):
    """Object detection; see `detect`."""

    extent: float
    min_score: float
    max_iou: float
    limit: int

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The focal loss, and the losses of boxes and centerness; in evaluation also the mAP."""
        inputs = model_call.model_inputs(self.model, batch)
        maps, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        places = self._places(maps, batch)
        boxes = model_call.column(batch, "boxes").astype(jnp.float32)
        targets: Targets = jax.vmap(partial(_targets, places))(boxes, batch["y"])
        logits, predicted, centerness = _outputs(maps, places)
        wanted = jax.nn.one_hot(targets.label, logits.shape[-1])
        focal = optax.sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0).sum(-1)
        of_box = 1 - giou(predicted, targets.boxes)
        of_center = optax.sigmoid_binary_cross_entropy(centerness, targets.centerness)
        count = targets.positive.sum(1).clip(1)
        parts = {
            "class_loss": _mean(focal, count, batch),
            "box_loss": _mean(jnp.where(targets.positive, of_box, 0), count, batch),
            "centerness_loss": _mean(jnp.where(targets.positive, of_center, 0), count, batch),
        }
        total = jnp.stack([part.total for part in parts.values()]).sum()
        scores: Metrics = dict(parts)
        if not train:
            scores |= self._scores(self._predictions(maps, places, batch), batch)
        return LossOutput(Mean(total, parts["class_loss"].count), scores, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The boxes (B, limit, 4), labels and scores (B, limit) of the objects that are found."""
        maps = model_call.evaluate(self.model, variables, batch)
        return self._predictions(maps, self._places(maps, batch), batch)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if boxes or labels fit neither the images nor the model's maps."""
        maps = model_call.output_spec(self.model, spec)
        classes = _check_maps(maps, model_call.column(spec))
        _check_objects(spec, bounds, classes)

    def _places(self, maps: Sequence[Array], batch: Batch) -> Places:
        height = model_call.column(batch).shape[1]
        centers, strides, limits = [], [], [0.0]
        for level in maps:
            stride = height // level.shape[1]
            y, x = np.mgrid[: level.shape[1], : level.shape[2]].reshape(2, -1)
            centers.append((np.stack([x, y], -1) + 0.5) * stride)
            strides.append(np.full(len(x), stride))
            limits.append(self.extent * stride)
        limits[-1] = np.inf
        sizes = [len(stride) for stride in strides]
        near, far = np.repeat(limits[:-1], sizes), np.repeat(limits[1:], sizes)
        columns = np.concatenate(centers), np.concatenate(strides), near, far
        return Places(*(jnp.asarray(column, jnp.float32) for column in columns))

    def _predictions(self, maps: Sequence[Array], places: Places, batch: Batch) -> Batch:
        logits, boxes, centerness = _outputs(maps, places)
        score = jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(centerness)[..., None])
        score = jnp.where(score >= self.min_score, score, 0)
        boxes = clip(boxes, *model_call.column(batch).shape[1:3])
        classes = logits.shape[-1]

        def of_image(score: Array, boxes: Array) -> Batch:
            count = min(CANDIDATES * self.limit, score.size)
            best, index = jax.lax.top_k(score.reshape(-1), count)
            place = jax.lax.div(index, jnp.int32(classes))  # not `//`: of `%` ONNX has another kind
            found, label = boxes[place], index - place * classes
            kept = non_maximum_suppression(found, best, label, self.max_iou, self.limit)
            real = kept >= 0
            return {
                "boxes": jnp.where(real[:, None], found[kept], 0),
                "label": jnp.where(real, label[kept], -1),
                "score": jnp.where(real, best[kept], 0),
            }

        return jax.vmap(of_image)(score, boxes)

    def _scores(self, predictions: Batch, batch: Batch) -> Metrics:
        mean_ap = metrics.mean_average_precision
        true = {**batch, "y": jnp.where(area(batch["boxes"]) > 0, batch["y"], -1)}
        return {
            "map": mean_ap(predictions, true),
            "map_50": mean_ap(predictions, true, thresholds=(0.5,)),
        }


def _outputs(maps: Sequence[Array], places: Places) -> tuple[Array, Array, Array]:
    """The logits (B, L, K), boxes (B, L, 4) and logits of centerness (B, L) at all places."""
    flat = [level.reshape(level.shape[0], -1, level.shape[-1]) for level in maps]
    out = jnp.concatenate(flat, 1)
    logits, distances, centerness = out[..., :-5], out[..., -5:-1], out[..., -1]
    distances = jax.nn.softplus(distances) * places.stride[None, :, None]
    center = places.center[None]
    boxes = jnp.concatenate([center - distances[..., :2], center + distances[..., 2:]], -1)
    return logits, boxes, centerness


def _targets(places: Places, boxes: Array, y: Array) -> Targets:
    """What the places stand for in an image with boxes (T, 4) and labels y (T,)."""
    center, edges, stride = places.center[:, None], boxes[None], places.stride[:, None]
    distances = jnp.concatenate([center - edges[..., :2], edges[..., 2:] - center], -1)  # (L, T, 4)
    away = jnp.abs(center - (edges[..., :2] + edges[..., 2:]) / 2).max(-1)
    farthest, sizes = distances.max(-1), area(boxes)
    stands = (
        ((y >= 0) & (sizes > 0))[None]
        & (distances.min(-1) > 0)
        & (away <= RADIUS * stride)
        & (farthest > places.nearest[:, None])
        & (farthest <= places.farthest[:, None])
    )
    which = jnp.where(stands, sizes[None], jnp.inf).argmin(1)
    positive = stands.any(1)
    distances = jnp.take_along_axis(distances, which[:, None, None], 1)[:, 0]
    before, after = distances[:, :2], distances[:, 2:]
    shares = jnp.minimum(before, after) / jnp.maximum(before, after)
    centerness = jnp.sqrt(jnp.where(positive[:, None], shares, 0).prod(-1))
    return Targets(positive, jnp.where(positive, y[which], -1), boxes[which], centerness)


def _mean(losses: Array, count: Array, batch: Batch) -> Mean:
    """The losses (B, L) over the number of places with an object (B,), of the real rows."""
    real = batch["mask"].astype(bool) if "mask" in batch else jnp.ones_like(count, bool)
    total = jnp.where(real, losses.sum(1), 0).sum()
    return Mean(total, jnp.where(real, count, 0).sum().astype(jnp.float32))


def _check_maps(maps: Any, x: Array) -> int:
    """The number of classes; `Error` for what are no maps of classes and boxes over the images."""
    leaves = maps if isinstance(maps, tuple | list) else [maps]
    if not all(getattr(level, "ndim", 0) == 4 and level.shape[-1] > 5 for level in leaves):
        raise Error(
            "detect needs a model that gives a tuple of maps (B, h, w, classes + 5), from fine to "
            "coarse, such as jdl.models.fcos.FCOS."
        )
    height, width = x.shape[1:3]
    for level in leaves:
        h, w = level.shape[1:3]
        if height % h or width % w or height // h != width // w:
            raise Error(
                f"The images are {height} x {width} pixels, of which the model makes a map of "
                f"{h} x {w}: pad or resize them, so that both sides are multiples of its stride, "
                "such as 32."
            )
    return leaves[0].shape[-1] - 5


def _check_objects(spec: Batch, bounds: Bounds, classes: int) -> None:
    """Raises `Error` if the columns boxes and y do not hold objects in the images."""
    needed = (
        "detect needs the columns boxes (B, T, 4), the edges x0, y0, x1, y1 in pixels, and y "
        "(B, T), whole numbers, -1 where there is no further object"
    )
    for name in ("boxes", "y"):
        if name not in spec:
            raise Error(f"{needed}, but there is no column {name}.")
    boxes, y = spec["boxes"], spec["y"]
    if boxes.shape != (*y.shape, 4) or y.ndim != 2 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise Error(f"{needed}, but boxes is {given(boxes)}, and y {given(y)}.")
    least, greatest = bounds.get("y", (-1, 0))
    if least < -1 or greatest >= classes:
        raise Error(
            f"The labels y are from {least} to {greatest}, but the model has {classes} classes: "
            "they go from 0 to one less, and -1 is for no object."
        )
    sides = spec["x"].shape[1:3]
    low, high = bounds.get("boxes", (0, 0))
    if low < 0 or high > max(sides):
        raise Error(
            f"The boxes have edges from {low:g} to {high:g}, which are outside of images of "
            f"{sides[0]} x {sides[1]} pixels: clip them, and scale them as the images."
        )
    least, _ = bounds.get(sides_of("boxes"), (0, 0))
    if least < 0:
        raise Error(
            f"A box has its right or lower edge {-least:g} pixels before the left or upper one: "
            "boxes are x0, y0, x1, y1, not x, y, width and height."
        )
