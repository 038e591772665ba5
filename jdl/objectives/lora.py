"""LoRA: fine-tuning of a large model by small matrices added to its weights (adapters)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.objectives.adapters import Paths, matrices, merged, train_adapters
from jdl.patterns import input_axes
from jdl.types import Array, Error, Key, Objective, Variables

LORA = "lora"
TABLES = ("table", "embedding")  # the names of embedding tables, here and in Flax
A, B, MAGNITUDE = "lora_a", "lora_b", "lora_magnitude"


def lora(
    objective: Objective,
    targets: str,
    rank: int = 8,
    alpha: float = 16.0,
    train: str | None = None,
    rank_stabilized: bool = False,
    dora: bool = False,
    hold_statistics: bool = True,
) -> Objective:
    """LoRA (Hu et al., 2022), for fine-tuning with few parameters: trains low-rank adapters.

    Each weight matrix W (inputs, outputs) whose path matches `targets` becomes W + scale * A @ B,
    with A (inputs, rank), B (rank, outputs), which begins with zeros, and a scale of alpha / rank.
    A kernel of a convolution (h, w, inputs, outputs) counts as a matrix (h * w * inputs, outputs),
    and those of Flax's attention, query, key and value (inputs, heads, head_dim), as (inputs,
    heads * head_dim), and out as (heads * head_dim, outputs).
    Parameters whose path matches `train`, such as a new head, are trained in full, all others not
    at all: they have no gradient and no optimizer state. Both patterns are regular expressions,
    searched (`re.search`) in paths like "stack/block_0/attention/query/kernel". BatchNorm is frozen
    except where its running statistics match `train`, like "BatchNorm_0/mean": as `freeze` has it,
    and `hold_statistics=False` too.

    `rank_stabilized` scales by alpha / sqrt(rank) (Kalajdzievski, 2023). `dora` (Liu et al., 2024)
    also trains the norm of each column of W. The untrained weights are in the collection "lora" of
    the model state; `params` holds only what is trained, which is small to save, and
    `merge_lora(variables)` gives the variables of the plain model. Raises `Error` where a pattern
    matches nothing, and for the matrices of a mixture of experts.
    """
    if rank < 1:
        raise Error(f"The rank of lora must be at least 1, not {rank}.")
    scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)

    def make(key: Key, base: Paths, params: Paths) -> Paths:
        made: Paths = {}
        for path in matrices(base, targets, "lora(targets)"):
            if base[path].ndim == 3 and "/experts/" in path:
                raise Error(
                    f"lora adds one product to a weight, and {path} {base[path].shape} has a "
                    "matrix for each expert: leave experts out of the targets."
                )
            matrix = _matrix(base[path], input_axes(path, params)[1])
            made |= _adapters(path, matrix, rank, dora, stream(key, path))
        return made

    numbers = {"scale": scale}
    return train_adapters(objective, LORA, make, merge_lora, train, hold_statistics, numbers)


def merge_lora(variables: Variables) -> Variables:
    """The variables of the plain model: its weights with the adapters of `lora` added to them."""
    scale = variables[LORA]["scale"]

    def add(base: Paths, trained: Paths) -> Paths:
        return {path: _merge(path, weight, trained, scale) for path, weight in base.items()}

    return merged(variables, LORA, (A, B, MAGNITUDE), add)


def _adapters(path: str, weight: Array, rank: int, dora: bool, key: Key) -> Paths:
    """A, drawn as PyTorch draws a linear layer, and B, zero.

    Of an embedding table, which sums over no inputs, A is zero and B drawn from a normal
    distribution, as PEFT has it.
    """
    inputs, outputs = weight.shape
    a, b = (inputs, rank), (rank, outputs)
    if path.rpartition("/")[2] in TABLES:
        made = {A: jnp.zeros(a, weight.dtype), B: jax.random.normal(key, b, weight.dtype)}
    else:
        draw = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        made = {A: draw(key, a, weight.dtype), B: jnp.zeros(b, weight.dtype)}
    made = {f"{path}/{name}": matrix for name, matrix in made.items()}
    return made | ({f"{path}/{MAGNITUDE}": _column_norms(weight)} if dora else {})


def _merge(path: str, weight: Array, trained: Paths, scale: Array) -> Array:
    if f"{path}/{A}" not in trained:
        return weight
    added = trained[f"{path}/{A}"] @ trained[f"{path}/{B}"]
    merged = weight.reshape(added.shape) + scale.astype(weight.dtype) * added
    if f"{path}/{MAGNITUDE}" in trained:
        norms = jax.lax.stop_gradient(_column_norms(merged))  # as the paper does, to save memory
        norms = jnp.where(norms == 0, 1, norms)
        merged = merged * (trained[f"{path}/{MAGNITUDE}"] / norms)[None]
    return merged.reshape(weight.shape)


def _matrix(weight: Array, end: int) -> Array:
    """The matrix (inputs, outputs) of a weight, whose axes of inputs end here."""
    return weight.reshape(math.prod(weight.shape[:end]), -1)


def _column_norms(matrix: Array) -> Array:
    """The Euclidean norms of the columns of a matrix, one for each output."""
    return jnp.linalg.norm(matrix, axis=0)
