"""Frozen batch normalization, for fine-tuning: running statistics that training does not change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from flax.traverse_util import flatten_dict

from jdl.layers.frozen_batch_norm import (
    IN_EVALUATION,
    IN_TRAINING,
    FrozenLayers,
    called_as_in_evaluation,
)
from jdl.objectives.override import override
from jdl.types import BATCH_STATS, Batch, Error, Key, LossOutput, Objective, Variables

Paths = frozenset[tuple[str, ...]]


def frozen_batch_norm(objective: Objective, frozen: Callable[[str], bool]) -> Objective:
    """Frozen batch normalization: layers normalize by their running statistics, and keep them.

    `frozen` says of which layers, by paths in the collection "batch_stats" like
    "ConvNorm_0/BatchNorm_0/mean". Raises `Error` in the first step, before it is computed, where
    this cannot be told to a layer.
    """

    @cache
    def layers_of(statistics: Paths) -> FrozenLayers:
        chosen = (path for path in statistics if frozen("/".join(path)))
        return FrozenLayers(frozenset("/".join(path[:-1]) for path in chosen))

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        if not train or BATCH_STATS not in variables:
            return objective.loss(variables, batch, key, train)
        layers = layers_of(frozenset(flatten_dict(variables[BATCH_STATS])))
        with called_as_in_evaluation(layers):
            output = objective.loss(variables, batch, key, train)
        if left := sorted(layers.paths - layers.found):
            raise Error(
                f"The running statistics of {', '.join(left)} cannot be kept in training: these "
                f"layers take none of {', '.join((*IN_TRAINING, *IN_EVALUATION))}, or lie in "
                "nnx.remat, nnx.jit or nnx.scan. Let them be updated by hold_statistics=False."
            )
        return output

    return override(objective, loss=loss)
