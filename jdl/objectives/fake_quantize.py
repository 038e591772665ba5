"""Quantization-aware training: a model learns with the rounding of its later quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.layers import all_gather_batch
from jdl.objectives.input_ranges import (
    RANGE,
    intercept,
    largest,
    range_of,
    to_whole,
    with_ranges,
)
from jdl.objectives.override import map_variables, override
from jdl.objectives.quantize import (
    check_bits,
    chosen_matrices,
    quantize,
    quantize_variables,
    round_trip,
)
from jdl.types import BATCH_STATS, Array, Batch, Key, Objective, Variables

MOMENTUM = 0.99  # the weight of the old range in the running one


def fake_quantize(
    objective: Objective, targets: str, bits: int = 8, activations: bool = False
) -> Objective:
    """Quantization-aware training (QAT; Jacob et al., 2018) by fake quantization.

    The model computes with the weight matrices that match `targets`, rounded as `quantize` rounds
    them, and their gradients are those of the rounded ones (straight-through estimator; Bengio et
    al., 2013). With `activations`, the inputs of the dense layers and convolutions (of a Linen
    model) of these weights are rounded too, to whole numbers from -127 to 127 within a running
    range: an exponential moving average of the batches' largest absolute values, `input_range` in
    the batch statistics. Inputs beyond it are clipped, and have no gradient.

    The parameters stay as they are, in full: `quantize_variables` makes them small after training,
    and the model computes as in the last evaluation. Begin with trained weights,
    `jdl.pretrained(model, weights)`, and a tenth of the learning rate. Raises `Error` where no
    matrix, or with `activations` no layer, matches.
    """
    check_bits(bits)

    def init(key: Key, batch: Batch) -> Variables:
        variables = objective.init(key, batch)
        rounded(variables)  # raises `Error` where nothing matches
        return with_ranges(objective, variables, batch, targets) if activations else variables

    def rounded(variables: Variables) -> Variables:
        params = {"params": variables["params"]}
        chosen = chosen_matrices(params, targets)
        fake = {
            path: straight_through(round_trip(weight, bits, end), weight)
            for path, (weight, end) in chosen.items()
        }
        paths = flatten_dict(params, sep="/", keep_empty_nodes=True) | fake
        return {**variables, **unflatten_dict(paths, sep="/")}

    fake = map_variables(objective, rounded)
    if activations:
        fake = intercept(fake, lambda variables, mask: _RoundedInputs(mask))
    small = quantize(objective, targets, bits, activations)

    def merge(variables: Variables) -> tuple[Objective, Variables]:
        return small, quantize_variables(variables, targets, bits)

    return override(fake, init=init, merge=merge)


def straight_through(value: Array, x: Array) -> Array:
    """Straight-through estimator (Bengio et al., 2013): `value` to the bit, x for the gradient."""
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))


@dataclass(eq=False)
class _RoundedInputs:
    """An interceptor that rounds the inputs of the layers that have a range, and updates it."""

    mask: Array | None

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not module.has_variable(BATCH_STATS, RANGE):
            return call(*args, **kwargs)
        x, *others = args
        seen = all_gather_batch(largest(x, self.mask)[None]).max()  # of all devices
        limit = self._limit(module, seen)
        whole, scale = to_whole(x, limit)
        limit = limit.astype(x.dtype)
        x = straight_through((whole * scale).astype(x.dtype), jnp.clip(x, -limit, limit))
        return call(x, *others, **kwargs)

    def _limit(self, module: nn.Module, seen: Array) -> Array:
        """The range of a layer's inputs; in training, after it has moved towards what is seen."""
        limit = range_of(module, seen)
        if not module.is_mutable_collection(BATCH_STATS):
            return limit
        moved = MOMENTUM * limit + (1 - MOMENTUM) * seen
        limit = jnp.where(seen > 0, moved, limit)  # a batch of padding alone shows nothing
        module.put_variable(BATCH_STATS, RANGE, limit)
        return limit
