"""Quantized weights: matrices kept as whole numbers of 8 or 4 bits, to save memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.objectives.input_ranges import has_ranges, intercept, with_ranges
from jdl.objectives.integer_products import IntegerProducts
from jdl.objectives.override import in_precision_of, map_variables, override
from jdl.patterns import input_axes, is_bias, matching
from jdl.types import Array, Batch, Error, Key, LossOutput, Objective, Variables

QUANTIZED = "quantized"
BLOCK = 64  # weights of an output that share a scale, at 4 bits (Dettmers et al., 2023)
Paths = dict[str, Any]


def quantize(
    objective: Objective, targets: str, bits: int = 8, activations: bool = False
) -> Objective:
    """Quantization: the weight matrices that match are kept in 8 or 4 bits, and are not trained.

    `targets` is a regular expression, searched (`re.search`) in paths that begin with the
    collection, like "params/stack/block_0/feed_forward/in/kernel". They move to the collection
    "quantized": whole numbers from -127 to 127 with a scale for each output (int8), or from -7 to 7
    with a scale for each output and 64 inputs (int4, two in a byte); the experts of a mixture of
    experts share the scale of an output at 8 bits. Biases are not matrices. The model computes with
    their products, in its own type. `quantize(lora(...), "^lora/base")` is QLoRA (Dettmers et al.,
    2023) with whole numbers in place of NF4. Raises `Error` where nothing matches.

    With `activations`, at 8 bits, the inputs of the dense layers and convolutions (of a Linen
    model) of these weights are rounded to whole numbers too, and the products are int8 x int8,
    summed in int32. Their ranges are those of `calibrate` or `fake_quantize(activations=True)`.
    """
    check_bits(bits)
    if activations and bits != 8:
        raise Error(f"Products with quantized activations are of 8 bits, not of {bits}.")

    def init(key: Key, batch: Batch) -> Variables:
        variables = objective.init(key, batch)
        if activations:
            variables = with_ranges(objective, variables, batch, targets)
        return quantize_variables(variables, targets, bits)

    plain = map_variables(objective, dequantize_variables, keep=QUANTIZED)
    if activations:
        plain = intercept(plain, _integer_products)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        output = plain.loss(variables, batch, key, train)
        stored = variables[QUANTIZED]
        rest = {name: tree for name, tree in output.model_state.items() if name != QUANTIZED}
        return replace(output, model_state={**_without(rest, stored), QUANTIZED: stored})

    return override(plain, init=init, loss=loss, merge=None)  # it stays small


def quantize_variables(variables: Variables, targets: str, bits: int = 8) -> Variables:
    """Quantization after training: the variables of a model as `quantize(...)` takes them."""
    if QUANTIZED in variables:
        raise Error("These variables are quantized already: use quantize once, with 'one|other'.")
    check_bits(bits)
    chosen = chosen_matrices(variables, targets)
    stored = {path: _quantized(weight, bits, end) for path, (weight, end) in chosen.items()}
    return {**_without(variables, stored), QUANTIZED: stored}


def dequantize_variables(variables: Variables) -> Variables:
    """The variables of the plain model, with the quantized weights in their places."""
    rest = {name: tree for name, tree in variables.items() if name != QUANTIZED}
    paths = flatten_dict(rest, sep="/", keep_empty_nodes=True)
    weights = {path: _dequantized(**parts) for path, parts in variables[QUANTIZED].items()}
    return unflatten_dict({**paths, **in_precision_of(rest.get("params"), weights)}, sep="/")


def chosen_matrices(variables: Variables, targets: str) -> dict[str, tuple[Array, int]]:
    """The weight matrices that match, by path, and where the axes of their inputs end.

    Raises `Error` where none matches.
    """
    paths = flatten_dict(variables, sep="/", keep_empty_nodes=True)
    matrices = {path: x for path, x in paths.items() if _is_matrix(path, x)}
    found = matching(targets, matrices, "quantize", "weight matrices")
    return {path: (matrices[path], input_axes(path, paths)[1]) for path in found}


def round_trip(weight: Array, bits: int, end: int) -> Array:
    """The weight as it is after quantization: the products of its whole numbers and scales."""
    return _dequantized(**_quantized(weight, bits, end))


def check_bits(bits: int) -> None:
    """Raises `Error` for numbers of bits in which weights cannot be kept."""
    if bits not in (8, 4):
        raise Error(f"Quantized weights are kept in 8 or in 4 bits, not in {bits}.")


def _integer_products(variables: Variables, mask: Array | None) -> IntegerProducts:
    if not has_ranges(variables):
        raise Error(
            "Quantized activations need the ranges of the layers' inputs: calibrate(objective, "
            "variables, batches, targets) finds them, or fake_quantize(activations=True) does."
        )
    return IntegerProducts(variables[QUANTIZED], mask)


def _without(variables: Variables, stored: Paths) -> Variables:
    """The variables without these paths; a collection stays, though all of it may be gone."""
    paths = flatten_dict(variables, sep="/", keep_empty_nodes=True)
    rest = {path: x for path, x in paths.items() if path not in stored}
    return {name: {} for name in variables} | unflatten_dict(rest, sep="/")


def _is_matrix(path: str, leaf: Any) -> bool:
    if is_bias(path) or getattr(leaf, "ndim", 0) < 2:
        return False
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _quantized(weight: Array, bits: int, end: int) -> dict[str, Array]:
    """Whole numbers and scales, whose product is near the weight (..., inputs, outputs).

    `end` is where the axes of inputs end: Flax's attention has outputs (heads, head_dim), which at
    4 bits are one axis of the scales.
    """
    if bits == 8:
        axes = tuple(range(end))
        scale = _scale(jnp.abs(weight).max(axes, keepdims=True), 127)
        values = jnp.round(weight.astype(jnp.float32) / scale.astype(jnp.float32))
        return {"values": jnp.clip(values, -127, 127).astype(jnp.int8), "scale": scale}
    heads, weight = weight.shape[end:], weight.reshape(*weight.shape[:end], -1)
    *leading, inputs, outputs = weight.shape
    if inputs % 2:
        raise Error(
            f"4 bits need an even number of inputs, and a matrix {weight.shape} that matches has "
            f"{inputs}: leave it out of the pattern, or take 8 bits."
        )
    block = BLOCK if inputs % BLOCK == 0 else inputs
    blocks = weight.reshape(*leading, inputs // block, block, outputs)
    scale = _scale(jnp.abs(blocks).max(-2, keepdims=True), 7)
    numbers = (jnp.round(blocks / scale) + 8).astype(jnp.uint8).reshape(weight.shape)
    low, high = numbers[..., ::2, :], numbers[..., 1::2, :]
    values = (low + (high << 4)).reshape(*leading, inputs // 2, *heads)
    return {"values": values, "scale": scale[..., 0, :]}


def _dequantized(values: Array, scale: Array) -> Array:
    if values.dtype == jnp.int8:
        return values.astype(scale.dtype) * scale
    heads = values.shape[scale.ndim - 1 :]
    values = values.reshape(*values.shape[: scale.ndim - 1], -1)
    pairs = jnp.stack([values & 15, values >> 4], -2)  # (..., inputs / 2, 2, outputs)
    *leading, half, _, outputs = pairs.shape
    blocks = pairs.reshape(*leading, scale.shape[-2], -1, outputs).astype(scale.dtype) - 8
    return (blocks * scale[..., None, :]).reshape(*leading, 2 * half, *heads)


def _scale(largest: Array, steps: int) -> Array:
    """The scale by which the largest number becomes `steps`; 1 where all numbers are 0."""
    return jnp.where(largest == 0, 1, largest / steps).astype(largest.dtype)
