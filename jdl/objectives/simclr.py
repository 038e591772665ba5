"""SimCLR: self-supervised contrastive learning of two views of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jdl.keys import stream
from jdl.layers import all_gather_batch, row_numbers
from jdl.objectives.autoencoding import Augment
from jdl.objectives.contrastive import EXCLUDED, cosines
from jdl.objectives.metric_learning import normalized
from jdl.objectives.views import TwoViews, augment_of, two_views
from jdl.types import Array, Batch, Error, Key, LossOutput, Mean, Variables


def simclr(
    model: Any,
    projection: Any,
    augment: Augment | Sequence[Augment],
    temperature: float = 0.5,
) -> SimCLR:
    """SimCLR (Chen et al., 2020): self-supervised learning of an encoder, without labels.

    Two views of each row x are drawn by the transforms `augment`, such as `random_resized_crop`,
    `random_flip` and `color_jitter`: what differs between views is what the features forget. The
    encoder `model` gives features (B, D), and the projection head, `projection`, such as
    `MLP(64, (128,))`, maps them to the vectors that are compared.

    The loss is NT-Xent, in nats: the cross-entropy of finding a view's other view among all views
    of the batch, on all devices, by cosine similarity over the `temperature`. More rows in a batch
    make it harder, in evaluation too. Predictions: the features `code` (B, D), of the row itself,
    without the projection. `jdl.objectives.probe_scores` says what they are worth.
    """
    if not temperature > 0:
        raise Error(f"temperature must be above 0, not {temperature}.")
    return SimCLR(model, projection, augment_of(augment), temperature)


@dataclass(frozen=True, eq=False)
class SimCLR(TwoViews):
    """Contrastive learning of two views; see `simclr`."""

    temperature: float

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean NT-Xent loss of both views."""
        one, two = two_views(self.augment, batch, key)
        first, variables = self.project(variables, one, stream(key, "first"), train)
        second, variables = self.project(variables, two, stream(key, "second"), train)
        first, second = normalized(first), normalized(second)
        mask = batch.get("mask", jnp.ones(len(first), bool)).astype(bool)
        forth = nt_xent(first, second, self.temperature, mask)
        back = nt_xent(second, first, self.temperature, mask)
        model_state = {name: v for name, v in variables.items() if name != "params"}
        return LossOutput(Mean.of((forth + back) / 2, mask), {}, model_state)


def nt_xent(codes: Array, positives: Array, temperature: float, mask: Array) -> Array:
    """NT-Xent (normalized temperature-scaled cross-entropy; Chen et al., 2020): (B,) in nats.

    For each of the codes (B, D), of length 1, the cross-entropy of finding its own positive among
    all positives (B, D) and all other codes of the rows whose `mask` (B,) is true, on all devices.
    Unlike `info_nce`, codes are also each other's negatives.
    """
    rows, real = row_numbers(len(codes)), all_gather_batch(mask)[None]
    itself = rows[:, None] == jnp.arange(real.shape[1])[None]

    def logits(others: Array, allowed: Array) -> Array:
        return jnp.where(allowed, cosines(codes, others) / temperature, EXCLUDED)

    both = jnp.concatenate([logits(positives, real), logits(codes, real & ~itself)], 1)
    return optax.softmax_cross_entropy_with_integer_labels(both, rows)
