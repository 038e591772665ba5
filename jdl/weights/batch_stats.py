"""BatchNorm's statistics, taken anew from the data, for weights that were never trained."""

from __future__ import annotations

from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.objectives.input_ranges import RANGE
from jdl.paths import path_name
from jdl.types import BATCH_STATS, Error, Loader, Objective, Variables


def recompute_batch_stats(
    objective: Objective, variables: Variables, data: Loader, key: int = 0
) -> Variables:
    """BatchNorm's statistics, recomputed: the variables with those of one pass over the data.

    For averaged weights (Izmailov et al., 2018), whose statistics no training has seen. They are
    the equal average of the batches' statistics, in training mode: dropout draws by the seed `key`.
    The running ranges of `jdl.fake_quantize(activations=True)` stay as they are. Raises `Error`
    where the variables have no statistics.
    """
    if BATCH_STATS not in variables:
        raise Error("These variables have no statistics of BatchNorm: nothing is to be recomputed.")

    @jax.jit
    def running(value: float, raw: object, i: int) -> Variables:
        """The running statistics after batch i, from `value` before it."""
        before = jax.tree_util.tree_map_with_path(
            lambda path, x: x if _is_range(path) else jnp.full_like(x, value),
            variables[BATCH_STATS],
        )
        draws = jax.random.fold_in(jax.random.key(key), i)
        batch = data.batch(raw, jnp.asarray(i, jnp.int32))
        output = objective.loss({**variables, BATCH_STATS: before}, batch, draws, True)
        return output.model_state[BATCH_STATS]

    sums, batches = jax.tree.map(lambda x: np.zeros(x.shape), variables[BATCH_STATS]), 0
    for i, raw in enumerate(islice(data.read(), len(data))):
        # From 0, running statistics are those of the batch times a factor, one minus momentum.
        zero, one = (jax.device_get(running(value, raw, np.int32(i))) for value in (0.0, 1.0))
        sums = jax.tree.map(
            lambda s, a, b: s + a.astype(np.float64) / (1 - (b.astype(np.float64) - a)),
            sums,
            zero,
            one,
        )
        batches += 1

    def mean(path: Any, total: np.ndarray, old: Any) -> Any:
        if _is_range(path):
            return old
        return jnp.asarray(total / batches, old.dtype)

    means = jax.tree_util.tree_map_with_path(mean, sums, variables[BATCH_STATS])
    return {**variables, BATCH_STATS: means}


def _is_range(path: Any) -> bool:
    """Whether a leaf is the running range of a layer's inputs, no statistic of BatchNorm."""
    return path_name(path[-1:]) == RANGE
