"""Self-supervised learning from two views of a row: what SimCLR and BYOL have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.layers import row_keys
from jdl.objectives import model_call
from jdl.objectives.autoencoding import Augment
from jdl.objectives.networks import apply_network, join_networks, of_network
from jdl.types import Array, Batch, Bounds, Error, Key, Objective, Variables

ENCODER, PROJECTION = "model", "projection"  # names of the parameters


@dataclass(frozen=True, eq=False)
class TwoViews(Objective):
    """Self-supervised learning by two views: an encoder, and a projection head above it.

    In training and in evaluation alike the loss compares two views of each row, drawn anew. The
    predictions are the encoder's features of the rows as they are, never of a view.
    """

    model: Any
    projection: Any
    augment: tuple[Augment, ...]

    def init(self, key: Key, batch: Batch) -> Variables:
        """The initial variables of encoder and projection head."""
        features = jnp.zeros(model_call.output_shape(self.model, batch))
        encoder = model_call.init(
            self.model, key, batch, *model_call.model_inputs(self.model, batch)
        )
        head = model_call.init(self.projection, stream(key, PROJECTION), batch, features)
        return join_networks({ENCODER: encoder, PROJECTION: head})

    def project(
        self, variables: Variables, view: Batch, key: Key, train: bool
    ) -> tuple[Array, Variables]:
        """The projection (B, D) of a view, and the variables afterwards."""
        inputs, head_key = model_call.model_inputs(self.model, view), stream(key, PROJECTION)
        features, variables = apply_network(
            self.model, ENCODER, variables, inputs, view, key, train
        )
        return apply_network(
            self.projection, PROJECTION, variables, (features,), view, head_key, train
        )

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The features `code` (B, D) of the rows."""
        code = model_call.evaluate(self.model, of_network(variables, ENCODER), batch)
        return {"code": code}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless the encoder gives features (B, D), and the projection vectors."""
        features = model_call.output_shape(self.model, spec)
        if len(features) != 2:
            raise Error(
                f"The encoder must give features (B, D), but it gives {features}: let it pool, by "
                "jdl.adapt_model(model, outputs=...)."
            )
        vector_width("projection", self.projection, spec, features[1])


def vector_width(name: str, head: Any, spec: Batch, inputs: int) -> int:
    """The width D of a head's vectors (B, D) for that many `inputs`; raises `Error` for others."""

    def of_batch(batch: Batch) -> tuple[Any, ...]:
        return (jnp.zeros((len(next(iter(batch.values()))), inputs)),)

    shape = model_call.output_shape(head, spec, of_batch)
    if len(shape) != 2:
        raise Error(f"The {name} must give vectors (B, D), but it gives {shape}.")
    return shape[1]


def two_views(augment: Sequence[Augment], batch: Batch, key: Key) -> tuple[Batch, Batch]:
    """Two views of each row of the batch: the transforms with keys by row, drawn independently."""
    one, two = (view(augment, batch, stream(key, "view", n)) for n in range(2))
    return one, two


def view(augment: Sequence[Augment], batch: Batch, key: Key) -> Batch:
    """The batch with the transforms of `jdl.data` applied to each row, within a loss.

    The random numbers of a row are those of its place in the batch, on whatever device it is.
    """
    for n, transform in enumerate(augment):
        keys = row_keys(stream(key, "augment", n), len(batch["x"]))
        batch = jax.vmap(transform)(keys, batch)
    return batch


def augment_of(augment: Augment | Sequence[Augment]) -> tuple[Augment, ...]:
    """The transforms as a tuple; raises `Error` if there is none, or one of a whole batch."""
    transforms = tuple(augment) if isinstance(augment, Sequence) else (augment,)
    if not transforms:
        raise Error("Two views of a row are alike without augment: give transforms of a row.")
    for transform in transforms:
        if not callable(transform):
            raise Error(
                "A view is of one row, and a transform of a whole batch, such as mixup, is not: "
                "leave it out of augment."
            )
    return transforms
