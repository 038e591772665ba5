"""FixMatch: semi-supervised learning from few labelled rows and many unlabelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdl import metrics
from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.autoencoding import Augment
from jdl.objectives.classification import Classification
from jdl.objectives.model_call import column
from jdl.objectives.views import augment_of, view
from jdl.types import Array, Batch, Error, Key, LossOutput, Mean, Metrics, Variables


def fixmatch(
    model: Any,
    weak: Augment | Sequence[Augment],
    strong: Augment | Sequence[Augment],
    threshold: float = 0.95,
    weight: float = 1.0,
) -> FixMatch:
    """FixMatch (Sohn et al., 2020): semi-supervised learning of classes, most rows without labels.

    A batch has labelled rows x (B, ...) with labels y (B,), and for each of them unlabelled rows
    `unlabelled_x` (B, R, ...), as `jdl.data.zip_loaders` makes it; any labels of these are not
    read. The loss of a labelled row is the cross-entropy, plus `weight` times the mean loss of its
    unlabelled rows. Theirs is consistency regularization with a pseudo-label: the class that the
    model gives to the row changed by the transforms `weak`, without a gradient, is the label of the
    row changed by `strong`; rows whose probability is below the `threshold` count as 0. Labelled
    rows are changed by `weak`.

    Metrics: accuracy, of the labelled rows, and `confident`, the share of unlabelled rows at or
    over the threshold. Evaluation and predictions are those of `classify`, and need no unlabelled
    rows.
    """
    if not 0 <= threshold <= 1 or weight < 0:
        raise Error(
            f"threshold must be from 0 to 1, and weight at least 0; got {threshold=} and {weight=}."
        )
    transforms = augment_of(weak), augment_of(strong)
    return FixMatch(model, None, 0.0, 0, (), *transforms, threshold, weight)


@dataclass(frozen=True, eq=False)
class FixMatch(Classification):
    """Semi-supervised classification; see `fixmatch`."""

    weak: tuple[Augment, ...]
    strong: tuple[Augment, ...]
    threshold: float
    weight: float

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The cross-entropy of the labels, and in training that of the pseudo-labels."""
        if not train:
            return super().loss(variables, batch, key, train)
        if "unlabelled_x" not in batch:
            raise Error(
                "fixmatch needs unlabelled rows, the column unlabelled_x: train on "
                "jdl.data.zip_loaders(labelled.shuffled(...), unlabelled=rest.shuffled(...))."
            )
        rows, ratio = batch["unlabelled_x"].shape[:2]
        mask = batch.get("mask", jnp.ones(rows, bool))
        real = batch.get("unlabelled_mask", jnp.ones((rows, ratio), bool))
        out, model_state = self._outputs(variables, batch, mask, real, key)
        labelled, weak, strong = out[:, 0], out[:, 1 : 1 + ratio], out[:, 1 + ratio :]
        probability = jax.nn.softmax(jax.lax.stop_gradient(weak))
        sure = real & (probability.max(-1) >= self.threshold)
        pseudo = optax.softmax_cross_entropy_with_integer_labels(strong, probability.argmax(-1))
        losses = self.losses(labelled, batch) + self.weight * jnp.where(sure, pseudo, 0).mean(1)
        scores: Metrics = {
            "accuracy": metrics.accuracy(labelled, batch["y"], mask),
            "confident": Mean.of(sure.astype(jnp.float32), real & mask[:, None]),
        }
        return LossOutput(Mean.of(losses, mask), scores, model_state)

    def _outputs(
        self, variables: Variables, batch: Batch, mask: Array, real: Array, key: Key
    ) -> tuple[Array, Variables]:
        """Logits (B, 1 + 2 R, K) of a row, its R others changed weakly, and the same strongly.

        All are one call of the model, so that BatchNorm normalizes them together, and a row's
        others stand beside it, so that its random numbers do not depend on the device.
        """
        x, others = column(batch), column(batch, "unlabelled_x")

        def views(transforms: tuple[Augment, ...], x: Array, name: str) -> Array:
            flat = x.reshape(-1, *x.shape[2:])
            return view(transforms, {"x": flat}, stream(key, name))["x"].reshape(x.shape)

        parts = (
            views(self.weak, x[:, None], "labelled"),
            views(self.weak, others, "weak"),
            views(self.strong, others, "strong"),
        )
        seen = jnp.concatenate(parts, 1)
        masks = jnp.concatenate([mask[:, None], real, real], 1) & mask[:, None]
        flat = {"x": seen.reshape(-1, *seen.shape[2:]), "mask": masks.reshape(-1)}
        inputs = model_call.model_inputs(self.model, flat)
        out, model_state = model_call.apply(self.model, variables, inputs, flat, key, True)
        return out.reshape(*seen.shape[:2], -1), model_state
