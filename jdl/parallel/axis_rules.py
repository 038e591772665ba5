"""Tensor parallel rules of a model that names the axes of its parameters, as Flax has it."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdl.objectives.axis_names import record_axis_names
from jdl.parallel.mesh import TRANSFORMER, Rules
from jdl.types import Batch, Error, Learner

LOGICAL_AXIS_RULES = tuple(
    (name, "model") for name in ("heads", "kv_heads", "mlp", "vocab", "experts")
)
"""What "model" divides of the axes that `nn.with_logical_partitioning` names, by default.

`flax.linen.set_logical_axis_rules` and the `rules` of `nn.with_logical_partitioning` give others.
"""
DIVIDED = ("fsdp", "model")  # the axes of a mesh that divide parameters


def parameter_rules(learner: Learner, spec: Batch, mesh: Mesh) -> Rules:
    """The tensor parallel rules of a learner on a mesh: those of its model's names come first.

    A model may name the axes of its parameters: the axes of a mesh (`nn.with_partitioning`), or
    what an axis is, logical axis names (`nn.with_logical_partitioning`). The names decide what
    "model" divides; "fsdp" takes the first axis that is left. All other parameters have the rules
    of transformers. Raises `Error` for names that do not fit.
    """
    if mesh.shape.get("model", 1) == 1:
        return TRANSFORMER
    with record_axis_names() as named:
        key = jax.eval_shape(jax.random.key, 0)
        # A lambda, because JAX keeps traces by function.
        jax.eval_shape(lambda key, batch: learner.init(key, batch), key, spec)
    # trunk/head/kernel also ends as head/kernel.
    longest_first = sorted(named, key=len, reverse=True)
    named_rules = [(f"/{re.escape(path)}$", _divided(path, named[path])) for path in longest_first]
    return (*named_rules, *TRANSFORMER)


def _divided(path: str, box: nn.Partitioned) -> int | None:
    """The axis of a parameter that "model" divides, by the names in its box."""
    names = tuple(box.names)
    if isinstance(box, nn.LogicallyPartitioned):
        rules = box.rules or nn.get_logical_axis_rules() or LOGICAL_AXIS_RULES
        names = tuple(nn.logical_to_mesh_axes(names, rules) or ())
    divided = [name if isinstance(name, tuple) else (name,) for name in names]
    used = [name for each in divided for name in each if name]
    if unknown := [name for name in used if name not in DIVIDED]:
        raise Error(
            f"The parameter {path} of the model is to be divided along {unknown[0]!r}, and those "
            "are divided along fsdp or model: give nn.with_partitioning one of these, or "
            "nn.set_logical_axis_rules other rules."
        )
    shape = jnp.shape(box.unbox(apply_constraint=False))
    if len(box.names) != len(shape) or used.count("model") > 1:
        raise Error(
            f"The axes of the parameter {path} {shape} are named {tuple(box.names)}: name each "
            'once, None for one that is not divided, and divide one alone along "model".'
        )
    return next((axis for axis, each in enumerate(divided) if "model" in each), None)
