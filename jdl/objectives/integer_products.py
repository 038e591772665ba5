"""Products of whole numbers: dense layers and convolutions of int8 with int8, summed in int32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jdl.objectives.input_ranges import RANGE, kernel_path, largest, range_of, to_whole
from jdl.types import BATCH_STATS, Array


@dataclass(eq=False)
class IntegerProducts:
    """An interceptor by which layers compute with whole numbers, as Jacob et al. (2018) infer.

    `weights` are those of `quantize`, by path. It is for the layers whose inputs have a range.
    """

    weights: dict[str, dict[str, Array]]
    mask: Array | None

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """The layer's output."""
        module = context.module
        weight = self.weights.get(kernel_path(module))
        if weight is None or not module.has_variable(BATCH_STATS, RANGE):
            return call(*args, **kwargs)
        limit = range_of(module, largest(args[0], self.mask))
        if isinstance(module, nn.Conv):
            by = _product(lax.conv_general_dilated, limit, **weight)
            layer = module.clone(parent=None, conv_general_dilated=by)
        else:
            layer = module.clone(
                parent=None, dot_general=_product(lax.dot_general, limit, **weight)
            )
        return layer.apply({"params": module.variables["params"]}, *args, **kwargs)


def _product(
    product: Callable[..., Array], limit: Array, values: Array, scale: Array
) -> Callable[..., Array]:
    """The product of inputs within the limit with `values` times `scale`, as a layer calls it."""

    def of_whole_numbers(x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
        whole, step = to_whole(x, limit)
        options |= {"precision": None, "preferred_element_type": jnp.int32}
        sums = product(whole.astype(jnp.int8), values, *args, **options)
        shape = ((1,) * sums.ndim + scale.shape)[-sums.ndim :]  # the axes of inputs are of 1
        outputs = scale.astype(jnp.float32).reshape(shape)
        return (sums.astype(jnp.float32) * (step * outputs)).astype(x.dtype)

    return of_whole_numbers
