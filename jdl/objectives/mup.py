"""The initial weights of muP."""

from __future__ import annotations

from typing import Any

import jax

from jdl.objectives.override import override
from jdl.types import Batch, Key, Objective, Variables
from jdl.widths import width_factors


def mup_init(objective: Objective, narrow: Any) -> Objective:
    """Maximal update parametrization (muP; Yang et al., 2022): the initial weights.

    `narrow` has the shapes of the parameters of the same model of a smaller width, as for
    `jdl.optim.mup`. The model's initializers are taken as they are, for weights of a variance
    1 / fan-in, which are right for hidden layers; those of an output layer, which falls in width,
    are scaled by the square root of its fan-out over its fan-in, each relative to the narrow
    model's (Yang, Simon and Bernstein, 2023). At the narrow model's width nothing changes. Raises
    `Error`, as `mup` does, where the two models differ in more than their widths.
    """

    def init(key: Key, batch: Batch) -> Variables:
        variables = objective.init(key, batch)
        factors = width_factors(narrow, variables["params"], _output_factor)
        params = jax.tree.map(lambda p, factor: p * factor, variables["params"], factors)
        return {**variables, "params": params}

    return override(objective, init=init)


def _output_factor(fan_in: float, fan_out: float) -> float:
    return min(1.0, fan_out / fan_in) ** 0.5
