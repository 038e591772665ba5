"""LoRA: fine-tuning of a large model by small matrices added to its weights (adapters)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.keys import stream
from jdl.objectives.frozen_batch_norm import frozen_batch_norm
from jdl.objectives.override import in_precision_of, map_variables, override
from jdl.patterns import matching
from jdl.types import Array, Batch, Error, Key, Objective, Variables

LORA = "lora"
TABLES = ("table", "embedding")  # the names of embedding tables, here and in Flax
A, B, MAGNITUDE = "lora_a", "lora_b", "lora_magnitude"
Paths = dict[str, Array]


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
    A kernel of a convolution (h, w, inputs, outputs) counts as a matrix (h * w * inputs, outputs).
    Parameters whose path matches `train`, such as a new head, are trained in full, all others not
    at all: they have no gradient and no optimizer state. Both patterns are regular expressions,
    searched (`re.search`) in paths like "stack/block_0/attention/query/kernel". BatchNorm is frozen
    except where its running statistics match `train`, like "BatchNorm_0/mean": as `freeze` has it,
    and `hold_statistics=False` too.

    `rank_stabilized` scales by alpha / sqrt(rank) (Kalajdzievski, 2023). `dora` (Liu et al., 2024)
    also trains the norm of each column of W. The untrained weights are in the collection "lora" of
    the model state; `params` holds only what is trained, which is small to save, and
    `merge_lora(variables)` gives the variables of the plain model. Raises `Error` where a pattern
    matches nothing.
    """
    if rank < 1:
        raise Error(f"The rank of lora must be at least 1, not {rank}.")
    scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)

    def init(key: Key, batch: Batch) -> Variables:
        variables = objective.init(key, batch)
        if LORA in variables:
            raise Error("This objective has adapters already: use lora once, with 'one|other'.")
        trained, base = _split(variables["params"], train)
        draw = stream(key, LORA)
        for path in _targets(base, targets):
            trained |= _adapters(path, base[path], rank, dora, stream(draw, path))
        kept = {"base": _nested(base), "scale": jnp.float32(scale)}
        return {**variables, "params": _nested(trained), LORA: kept}

    adapted = override(map_variables(objective, merge_lora, keep=LORA), init=init)
    if not hold_statistics:
        return adapted
    return frozen_batch_norm(adapted, lambda path: train is None or not re.search(train, path))


def merge_lora(variables: Variables) -> Variables:
    """The variables of the plain model: its weights with the adapters of `lora` added to them."""
    trained = _flat(variables["params"])
    base = in_precision_of(trained, _flat(variables[LORA]["base"]))
    scale = variables[LORA]["scale"]
    merged = {path: _merge(path, weight, trained, scale) for path, weight in base.items()}
    full = {
        path: x for path, x in trained.items() if path.rpartition("/")[2] not in (A, B, MAGNITUDE)
    }
    rest = {name: tree for name, tree in variables.items() if name != LORA}
    return {**rest, "params": _nested(merged | full)}


def _split(params: Any, train: str | None) -> tuple[Paths, Paths]:
    """The parameters that are trained in full, and all others."""
    if not isinstance(params, Mapping):
        raise Error("lora needs parameters in dicts: let init of the jdl.Model return a dict.")
    paths = _flat(params)
    full = () if train is None else matching(train, paths, "lora(train)")
    trained = {path: paths[path] for path in full}
    base = {path: x for path, x in paths.items() if path not in trained}
    return trained, base


def _targets(base: Paths, targets: str) -> list[str]:
    matrices = [path for path, weight in base.items() if weight.ndim > 1]
    of = "weight matrices that are not trained in full"
    return matching(targets, matrices, "lora(targets)", of)


def _adapters(path: str, weight: Array, rank: int, dora: bool, key: Key) -> Paths:
    """A, drawn as PyTorch draws a linear layer, and B, zero.

    Of an embedding table, which sums over no inputs, A is zero and B drawn from a normal
    distribution, as PEFT has it.
    """
    outputs = weight.shape[-1]
    inputs = weight.size // outputs
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
    merged = weight + (scale.astype(weight.dtype) * added).reshape(weight.shape)
    if f"{path}/{MAGNITUDE}" not in trained:
        return merged
    norms = jax.lax.stop_gradient(_column_norms(merged))  # as the paper does, to save memory
    norms = jnp.where(norms == 0, 1, norms)
    return merged * (trained[f"{path}/{MAGNITUDE}"] / norms).reshape(
        (1,) * (weight.ndim - 1) + (-1,)
    )


def _column_norms(weight: Array) -> Array:
    """The Euclidean norms of the columns of a weight matrix, one for each output."""
    return jnp.linalg.norm(weight.reshape(-1, weight.shape[-1]), axis=0)


_flat = partial(flatten_dict, sep="/")
_nested = partial(unflatten_dict, sep="/")
