"""Classification: softmax cross-entropy, focal, hinge and perceptron losses; binary classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.objectives import model_call
from jdl.objectives.regression import ElementLoss
from jdl.objectives.supervised import Supervised, given, target_column
from jdl.objectives.weights import ClassWeights, check_class_weights, class_weights_of
from jdl.types import Array, Batch, Bounds, Error, Mean, Metrics, sums_of

RowLoss = Callable[[Array, Array], Array]  # (logits (..., K), labels (...)) -> losses (...)
SUM_ERROR = 1e-3  # of probabilities that should sum to 1, in float32 or rounded in a file


def classify(
    model: Any,
    smoothing: float = 0.0,
    loss: RowLoss | None = None,
    top: int = 0,
    class_weights: ClassWeights | None = None,
    row_weights: str | None = None,
) -> Classification:
    """Classification by softmax cross-entropy, into K classes.

    x (B, ...) to logits (B, K), for whole-number labels y (B,) from 0 to K - 1, or one-hot or soft
    labels y (B, K): probabilities that sum to 1, such as mixup's. Dense prediction (semantic
    segmentation, sequence tagging, node classification) is the same with logits (B, ..., K) and
    labels y (B, ...), where the label -1 is unknown and ignored, or (B, ..., K).

    `smoothing` is label smoothing (Szegedy et al., 2016). `loss(logits, labels)`, such as
    `focal_loss()`, replaces the cross-entropy, which is in nats; it takes whole-number labels, and
    its loss of a soft label is the expected one. `class_weights` are K numbers against class
    imbalance, such as those of `jdl.data.class_weights(train)`; `row_weights` names a column (B,)
    of sample weights. Both multiply the loss, which is divided by the sum of the weights; the
    metrics count all rows equally. Metrics: accuracy, with `top` k also top-k accuracy; in
    evaluation the confusion matrix (precision, recall, F1), and for dense prediction the mean IoU.
    Of a soft label they take the likeliest class.
    """
    if not 0 <= smoothing < 1:
        raise Error(f"smoothing, the label smoothing, must be from 0 to below 1, got {smoothing}.")
    if smoothing and loss:
        raise Error("smoothing is that of the cross-entropy: leave out loss= or smoothing=.")
    if loss in (optax.softmax_cross_entropy, optax.safe_softmax_cross_entropy):
        raise Error(
            "The loss of classify takes whole-number labels, and optax.softmax_cross_entropy "
            "probabilities: leave out loss=, the cross-entropy is the default, also of soft labels."
        )
    weights = class_weights_of(class_weights)
    return Classification(model, loss, smoothing, top, weights, row_weights=row_weights)


def hinge(model: Any) -> Classification:
    """Classification by the multi-class hinge loss, as in an SVM (Crammer and Singer, 2001).

    The loss is max over k of (1 if k is not y) + logits_k - logits_y.
    """
    return classify(model, loss=optax.losses.multiclass_hinge_loss)


def perceptron(model: Any) -> Classification:
    """Classification by the perceptron loss (Rosenblatt, 1958): max_k logits_k - logits_y."""
    return classify(model, loss=optax.losses.multiclass_perceptron_loss)


def focal_loss(gamma: float = 2.0) -> RowLoss:
    """Focal loss of the softmax (Lin et al., 2017), for `classify(model, loss=focal_loss())`.

    (1 - p_y)^gamma times the cross-entropy -log p_y: examples that are right already count little.
    The form of the sigmoid, for `classify_binary` and `multi_label`, is `optax.sigmoid_focal_loss`.
    """
    if gamma < 0:
        raise Error(f"gamma, the focal loss's exponent, must be 0 or more, not {gamma}.")

    def loss(logits: Array, labels: Array) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # 1 - p_y by expm1, and not quite 0: the power's gradient is infinite there below gamma 1.
        wrong = -jnp.expm1(-losses.clip(jnp.finfo(losses.dtype).tiny))
        return wrong**gamma * losses

    return loss


@dataclass(frozen=True, eq=False)
class Classification(Supervised):
    """Classification into K classes; see `classify`."""

    row_loss: RowLoss | None  # None: the cross-entropy
    smoothing: float
    top: int
    class_weights: tuple[float, ...]

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each label: the cross-entropy in nats, or another one."""
        labels = batch["y"]
        if _is_soft(labels, out):
            if self.row_loss is None:
                return _cross_entropy(self.smoothing, out, labels.astype(out.dtype))
            return _expected_loss(self.row_loss, out, labels.astype(out.dtype))
        labels = labels if labels.ndim == 1 else labels.clip(0)
        if self.row_loss is None:
            return _cross_entropy(self.smoothing, out, labels)
        return self.row_loss(out, labels)

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """Accuracy, top-k accuracy, and in evaluation the confusion matrix and the mean IoU."""
        labels, mask = batch["y"], self.known(out, batch)
        if _is_soft(labels, out):
            labels = labels.argmax(-1)
        elif labels.ndim > 1:
            labels = labels.clip(0)
        scores: Metrics = {"accuracy": metrics.accuracy(out, labels, mask)}
        if self.top:
            scores[f"top{self.top}"] = metrics.top_k(out, labels, self.top, mask)
        if not train:
            confusion = metrics.Confusion.of(out.argmax(-1), labels, out.shape[-1], mask)
            scores["confusion"] = confusion
            if labels.ndim > 1:
                scores["iou"] = metrics.MeanIoU(confusion)
        return scores

    def predictions(self, out: Array) -> Batch:
        """The likeliest label (B,) and the probabilities (B, K) of each row."""
        return {"label": out.argmax(-1), "probability": jax.nn.softmax(out)}

    def known(self, out: Array, batch: Batch) -> Array | None:
        """The mask of labels that are known, and not padding."""
        if out.ndim == 2:
            return batch.get("mask")
        real = model_call.time_mask(batch, column="y")
        return real if _is_soft(batch["y"], out) else known_labels(batch["y"], real)

    def label_weights(self, out: Array, batch: Batch) -> Array | None:
        """The weight of each label's class; of a soft label, the expected one."""
        if not self.class_weights:
            return None
        weights, labels = jnp.asarray(self.class_weights, jnp.float32), batch["y"]
        if _is_soft(labels, out):
            return labels.astype(jnp.float32) @ weights
        return weights[labels.clip(0)]

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if labels are neither whole numbers nor probabilities for the logits."""
        _check_class_axis(shape, spec, bounds)
        if "y" in spec and spec["y"].shape == shape:
            _check_soft_labels(shape, bounds)
        else:
            check_labels(spec, bounds, shape, f", or probabilities of shape {shape}")
        check_class_weights(self.class_weights, shape[-1])
        if not 0 <= self.top <= shape[-1]:
            raise Error(f"top={self.top}, but there are only {shape[-1]} classes.")


def classify_binary(
    model: Any,
    loss: ElementLoss = optax.sigmoid_binary_cross_entropy,
    class_weights: ClassWeights | None = None,
    row_weights: str | None = None,
) -> BinaryClassification:
    """Binary classification by binary cross-entropy (BCE).

    x (B, ...) to a logit (B, 1), for labels y (B,) of 0 and 1. `loss(logits, labels)`, such as
    `optax.sigmoid_focal_loss`, replaces the cross-entropy. `class_weights` are those of the labels
    0 and 1, and `row_weights` names a column, as in `classify`. Metrics: accuracy; in evaluation
    also the confusion matrix at the threshold 1/2.
    """
    weights = class_weights_of(class_weights)
    return BinaryClassification(model, loss, weights, row_weights=row_weights)


@dataclass(frozen=True, eq=False)
class BinaryClassification(Supervised):
    """Binary classification; see `classify_binary`."""

    element_loss: ElementLoss
    class_weights: tuple[float, ...]

    def losses(self, out: Array, batch: Batch) -> Array:
        """The loss of each row: the binary cross-entropy in nats, or another one."""
        return self.element_loss(out[:, 0], batch["y"].astype(out.dtype))

    def metrics(self, out: Array, batch: Batch, train: bool) -> Metrics:
        """Accuracy, and in evaluation the confusion matrix."""
        labels, mask = batch["y"], batch.get("mask")
        predicted = _decide(out)
        scores: Metrics = {"accuracy": Mean.of((predicted == labels).astype(jnp.float32), mask)}
        if not train:
            scores["confusion"] = metrics.Confusion.of(predicted, labels, 2, mask)
        return scores

    def predictions(self, out: Array) -> Batch:
        """The label (B,) and the probabilities (B, 2) of the labels 0 and 1."""
        yes = jax.nn.sigmoid(out[:, 0])
        return {"label": _decide(out), "probability": jnp.stack([1 - yes, yes], -1)}

    def label_weights(self, out: Array, batch: Batch) -> Array | None:
        """The weight of each row's class."""
        if not self.class_weights:
            return None
        return jnp.asarray(self.class_weights, jnp.float32)[batch["y"]]

    def check_targets(self, shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the model does not give one logit a row, or labels are not 0 and 1."""
        if shape[1:] != (1,):
            raise Error(
                "classify_binary needs a model with one output a row, (B, 1), but this one gives "
                f"{shape}."
            )
        least, greatest = bounds.get("y", (0, 1))
        if greatest > 1:
            cure = (
                "subtract 1 from y."
                if (least, greatest) == (1, 2)
                else f"{int(greatest) + 1} classes need jdl.objectives.classify, and a model of "
                f"{int(greatest) + 1} outputs."
            )
            raise Error(
                f"The labels y are from {least} to {greatest}, but classify_binary takes the labels"
                f" 0 and 1: {cure}"
            )
        check_labels(spec, bounds, (shape[0], 2))
        check_class_weights(self.class_weights, 2)


def _decide(logits: Array) -> Array:
    """The labels (B,) of the logits (B, 1): 1 from a probability of one half on."""
    return (logits[:, 0] >= 0).astype(jnp.int32)


def known_labels(labels: Array, real: Array | None) -> Array:
    """The mask (B, ...) of labels that are not -1, and `real`, a mask (B,) or (B, T) or None."""
    known = labels >= 0
    if real is None:
        return known
    return known & real.astype(bool).reshape(real.shape + (1,) * (known.ndim - real.ndim))


def check_labels(spec: Batch, bounds: Bounds, logits: tuple[int, ...], otherwise: str = "") -> None:
    """Raises `Error` unless y are whole numbers, one for each of the logits (..., K), below K."""
    needed = f"The labels y must be whole numbers of shape {logits[:-1]}{otherwise}"
    labels, classes = target_column(spec, f"{needed}, as the logits are {logits}"), logits[-1]
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != logits[:-1]:
        raise Error(f"{needed}, as the logits are {logits}, but it is {given(labels)}.")
    least, greatest = bounds.get("y", (0, classes - 1))
    if least < -(labels.ndim > 1):
        raise Error(
            f"The labels y are from {least} to {greatest}, and must not be negative: leave out "
            "rows whose label is unknown. (-1 marks unknown labels only where a row has several.)"
        )
    if greatest >= classes:
        raise Error(
            f"The labels y are from {least} to {greatest}, but the model has {classes} outputs, "
            f"for the labels 0 to {classes - 1}: correct the labels, or give the model "
            f"{int(greatest) + 1} outputs."
        )


def _check_class_axis(shape: tuple[int, ...], spec: Batch, bounds: Bounds) -> None:
    """Raises `Error` if outputs have no axis of classes, as behind an argmax."""
    labels = spec.get("y")
    # y of 0 and 1 in that shape are one-hot labels
    out_is_like_y = (
        labels is not None
        and jnp.issubdtype(labels.dtype, jnp.integer)
        and labels.shape == shape
        and bounds.get("y", (0, 1))[1] > 1
    )
    if len(shape) < 2 or out_is_like_y:
        raise Error(
            f"The model's output has the shape {shape}, and no axis of classes: classify needs a "
            f"logit for each class, ({', '.join(map(str, shape))}, K). Leave out an argmax or a "
            "reshape at its end."
        )


def _check_soft_labels(shape: tuple[int, ...], bounds: Bounds) -> None:
    least, greatest = bounds.get("y", (0, 1))
    if least < 0 or greatest > 1:
        raise Error(
            f"The labels y of shape {shape} are from {least} to {greatest}, but soft labels are "
            "probabilities, from 0 to 1."
        )
    least, greatest = bounds.get(sums_of("y"), (1, 1))
    if least < 1 - SUM_ERROR or greatest > 1 + SUM_ERROR:
        raise Error(
            f"The labels y of shape {shape} sum to {least:g} up to {greatest:g} in a row, but soft "
            "labels are probabilities and sum to 1: several labels a row are for "
            "jdl.objectives.multi_label."
        )


def _is_soft(labels: Array, logits: Array) -> bool:
    """Whether labels are one-hot or soft, (..., K) like the logits, not whole numbers (...)."""
    return labels.ndim == logits.ndim


def _cross_entropy(smoothing: float, logits: Array, labels: Array) -> Array:
    if _is_soft(labels, logits):
        losses = optax.softmax_cross_entropy(logits, labels)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if isinstance(smoothing, float | int) and not smoothing:
        return losses
    return (1 - smoothing) * losses - smoothing * jax.nn.log_softmax(logits).mean(-1)


def _expected_loss(loss: RowLoss, logits: Array, labels: Array) -> Array:
    """The loss of soft labels: the mean of the losses of all classes, by their probabilities."""

    def of_class(k: Array) -> Array:
        return loss(logits, jnp.full(labels.shape[:-1], k))

    losses = jax.vmap(of_class, out_axes=-1)(jnp.arange(labels.shape[-1]))
    return (losses * labels).sum(-1)
