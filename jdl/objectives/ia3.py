"""IA3: fine-tuning of a large model by factors of its activations."""

from __future__ import annotations

import jax.numpy as jnp

from jdl.objectives.adapters import Paths, matrices, merged, train_adapters
from jdl.patterns import input_axes
from jdl.types import Error, Key, Objective, Variables

IA3 = "ia3"
OUTPUTS, INPUTS = "ia3_outputs", "ia3_inputs"


def ia3(
    objective: Objective,
    outputs: str | None,
    inputs: str | None = None,
    train: str | None = None,
    hold_statistics: bool = True,
) -> Objective:
    """IA3 (Liu et al., 2022), for fine-tuning with very few parameters: factors of activations.

    Each output of a weight matrix whose path matches `outputs` is multiplied by a trained number,
    and each input of one that matches `inputs`; all begin with 1. None is no matrix. The paper has
    keys and values, `outputs="key|value"`, and what is within the feed-forward layers,
    `inputs="feed_forward/out"`. The factors are parts of the weights: columns W * l with the bias
    beside it, and rows. `train`, `hold_statistics` and what is trained are as in `jdl.lora`. The
    untrained weights are in the collection "ia3", and `merge_ia3(variables)` gives the
    variables of the plain model. Raises `Error` where a pattern matches nothing.
    """
    if outputs is None and inputs is None:
        raise Error("ia3 multiplies the outputs or the inputs of matrices: give one pattern.")

    def make(key: Key, base: Paths, params: Paths) -> Paths:
        found: Paths = {}
        for path in () if outputs is None else matrices(base, outputs, "ia3(outputs)"):
            shape = base[path].shape[input_axes(path, params)[1] :]
            found[f"{path}/{OUTPUTS}"] = jnp.ones(shape, base[path].dtype)
        for path in () if inputs is None else matrices(base, inputs, "ia3(inputs)"):
            shape = base[path].shape[slice(*input_axes(path, params))]
            found[f"{path}/{INPUTS}"] = jnp.ones(shape, base[path].dtype)
        return found

    return train_adapters(objective, IA3, make, merge_ia3, train, hold_statistics)


def merge_ia3(variables: Variables) -> Variables:
    """The variables of the plain model: its weights multiplied by the factors of `ia3`."""
    return merged(variables, IA3, (OUTPUTS, INPUTS), _multiplied)


def _multiplied(base: Paths, trained: Paths) -> Paths:
    found = dict(base)
    for path, weight in base.items():
        if (factors := trained.get(f"{path}/{OUTPUTS}")) is not None:
            for part in (path, f"{path.rpartition('/')[0]}/bias"):
                if part in found:
                    leading = range(found[part].ndim - factors.ndim)
                    found[part] = found[part] * jnp.expand_dims(factors, leading)
        if (factors := trained.get(f"{path}/{INPUTS}")) is not None:
            begin, end = input_axes(path, base)
            axes = *range(begin), *range(end, weight.ndim)
            found[path] = found[path] * jnp.expand_dims(factors, axes)
    return found
