"""The ranges of layers' inputs, for quantized activations: running in training, or calibrated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import get_opaque_trace_state

from jdl.objectives.override import OF_VARIABLES, override
from jdl.types import BATCH_STATS, Array, Batch, Error, Key, LossOutput, Objective, Variables

RANGE = "input_range"  # beside BatchNorm's running statistics: averaged over devices as they are
LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv)
Interceptor = Callable[[Any, Any, Any, Any], Any]  # as `flax.linen.intercept_methods` takes it


def calibrate(
    objective: Objective,
    variables: Variables,
    batches: Iterable[Batch],
    targets: str,
    percentile: float = 100.0,
) -> Variables:
    """Calibration of activations for quantization after training, by a few batches.

    The variables with the range of the inputs of each dense layer and convolution (of a Linen
    model) whose kernel matches `targets`, as in `quantize`: that of their absolute values, or their
    `percentile` (99.9, say) in each batch, the largest of all batches. The batches are evaluated,
    not trained on. Raises `Error` where no layer matches, and without batches.
    """
    if not 0 < percentile <= 100:
        raise Error(f"percentile must be a number in (0, 100], not {percentile}.")

    @jax.jit
    def ranges_of(variables: Variables, batch: Batch) -> dict[str, Array]:
        seen = _Seen(percentile, batch.get("mask"))
        with nn.intercept_methods(seen):
            objective.loss(variables, batch, jax.random.key(0), False)
        return seen.ranges

    found: dict[str, Array] = {}
    for batch in batches:
        if not found:
            variables = with_ranges(objective, variables, batch, targets)
        new = ranges_of(variables, batch)
        found = jax.tree.map(jnp.maximum, found, new) if found else new
    if not found:
        raise Error("calibrate needs at least one batch of data.")
    return _with(variables, found)


def with_ranges(
    objective: Objective, variables: Variables, batch: Batch, targets: str
) -> Variables:
    """The variables with ranges of 0, not known yet, of the inputs of the layers that match.

    Raises `Error` where none does.
    """
    layers = _Layers()

    def loss(variables: Variables, batch: Batch, key: Key) -> LossOutput:
        return objective.loss(variables, batch, key, False)

    with nn.intercept_methods(layers):
        jax.eval_shape(loss, variables, batch, jax.random.key(0))
    weights = flatten_dict({"params": variables["params"]}, sep="/", keep_empty_nodes=True)
    kernels = {path for path in weights if path in layers.kernels and re.search(targets, path)}
    if not kernels:
        raise Error(
            "Quantized activations are the inputs of dense layers and convolutions of a Linen "
            f"model, and none has weights that match {targets!r}: choose another pattern among "
            f"{', '.join(sorted(layers.kernels & weights.keys())) or 'none'}, or leave them out."
        )
    names = [path.removeprefix("params/").removesuffix("kernel") + RANGE for path in kernels]
    return _with(variables, dict.fromkeys(names, jnp.zeros(())))


def has_ranges(variables: Variables) -> bool:
    """Whether the inputs of some layer have a range."""
    return any(path[-1] == RANGE for path in flatten_dict(variables.get(BATCH_STATS, {})))


def intercept(
    objective: Objective, interceptor: Callable[[Variables, Array | None], Interceptor]
) -> Objective:
    """The same objective, in which `interceptor(variables, mask)` gets the calls of all layers."""

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        with nn.intercept_methods(interceptor(variables, batch.get("mask"))):
            return objective.loss(variables, batch, key, train)

    def intercepted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(variables: Variables, *arguments: Any) -> Any:
            with nn.intercept_methods(interceptor(variables, None)):
                return method(variables, *arguments)

        return call

    names = [name for name in OF_VARIABLES if hasattr(objective, name)]
    return override(objective, loss=loss, **{n: intercepted(getattr(objective, n)) for n in names})


def largest(x: Array, mask: Array | None, percentile: float = 100.0) -> Array:
    """The largest absolute value of x (B, ...), or a percentile, in the rows where mask is true."""
    size = jnp.abs(jax.lax.stop_gradient(x)).astype(jnp.float32)
    if mask is not None and len(mask) == len(x):
        real = mask.reshape(-1, *(1,) * (x.ndim - 1)).astype(bool)
        size = jnp.where(real, size, 0 if percentile == 100 else jnp.nan)
    if percentile == 100:
        return size.max()
    return jnp.nan_to_num(jnp.nanpercentile(size, percentile))  # NaN without any real row


def to_whole(x: Array, limit: Array) -> tuple[Array, Array]:
    """x in whole numbers from -127, for -limit, to 127, and their scale, in float32."""
    scale = jnp.where(limit == 0, 1, limit / 127)
    return jnp.clip(jnp.round(x.astype(jnp.float32) / scale), -127, 127), scale


def range_of(module: nn.Module, seen: Array) -> Array:
    """The range of a layer's inputs; where none is known, that of the inputs themselves."""
    stored: Array = module.get_variable(BATCH_STATS, RANGE)
    return jnp.where(stored > 0, stored, seen)


def kernel_path(module: nn.Module) -> str:
    """The path of a layer's weights in the variables of its model."""
    return "/".join(("params", *module.path, "kernel"))


@dataclass(eq=False)
class _Layers:
    """An interceptor that notes the weights of dense layers and convolutions."""

    kernels: set[str] = field(default_factory=set)

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, LAYERS):
            self.kernels.add(kernel_path(context.module))
        return call(*args, **kwargs)


@dataclass(eq=False)
class _Seen:
    """An interceptor that notes the ranges of inputs, of the layers that have a range."""

    percentile: float
    mask: Array | None
    ranges: dict[str, Array] = field(default_factory=dict)  # by path in the batch statistics
    trace: Any = field(default_factory=partial(get_opaque_trace_state, convention="flax"))

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__" and module.has_variable(BATCH_STATS, RANGE):
            if get_opaque_trace_state(convention="flax") != self.trace:
                raise Error(
                    f"The layer {'/'.join(module.path)} is within nn.remat, out of which no range "
                    "comes: build the model with remat=False, of the same variables and outputs."
                )
            path = "/".join((*module.path, RANGE))
            seen = largest(args[0], self.mask, self.percentile)
            self.ranges[path] = jnp.maximum(seen, self.ranges.get(path, 0.0))
        return call(*args, **kwargs)


def _with(variables: Variables, ranges: dict[str, Array]) -> Variables:
    paths = flatten_dict(variables.get(BATCH_STATS, {}), sep="/")
    return {**variables, BATCH_STATS: unflatten_dict({**paths, **ranges}, sep="/")}
