"""Wrappers of objectives: the same objective with other methods, or with mapped variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.types import Batch, Key, LossOutput, Merges, Objective, Variables

OF_VARIABLES = ("outputs", "predict", "decode", "encode", "init_cache", "next_logits", "prefill")
METHODS = (
    *("init", "loss", "check", "sample_latent", "max_length", "has_cache", "has_mask"),
    "merge",
    "stored_columns",
    *OF_VARIABLES,
)


def override(objective: Objective, **methods: Any) -> Objective:
    """The same objective with other methods: `override(objective, loss=my_loss)`.

    It satisfies the same protocols (`Predicts`, `Generates`, ...) as the objective, but for
    `Merges` where other methods predict than the objective's own: `merge` must be given then.
    """
    new: Any = Objective()
    new.overridden = objective
    for name in METHODS:
        if hasattr(objective, name):
            setattr(new, name, methods.get(name, getattr(objective, name)))
    if not methods.keys().isdisjoint(("merge", *OF_VARIABLES)):
        new.merge = methods.get("merge")
    return new


def map_variables(
    objective: Objective, inward: Callable[[Variables], Variables], keep: str | None = None
) -> Objective:
    """The same objective, whose methods get `inward(variables)` in place of the variables.

    The collection `keep`, if there is one, stays unchanged in the model state. The caller must
    override `init`. `merge` gives the objective with the variables inward.
    """
    kept = () if keep is None else (keep,)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        output = objective.loss(inward(variables), batch, key, train)
        return replace(
            output, model_state=output.model_state | {name: variables[name] for name in kept}
        )

    def mapped(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda variables, *arguments: method(inward(variables), *arguments)

    names = [name for name in OF_VARIABLES if hasattr(objective, name)]
    return override(
        objective,
        loss=loss,
        merge=lambda variables: (objective, inward(variables)),
        **{n: mapped(getattr(objective, n)) for n in names},
    )


def merge(objective: Any, variables: Variables) -> tuple[Any, Variables]:
    """An objective and its variables in the form that is handed over: see `Merges`."""
    while isinstance(objective, Merges):
        objective, variables = objective.merge(variables)
    return objective, variables


def unwrapped_objective(objective: Any) -> Any:
    """The objective within all that override its functions (`freeze`, `with_metrics`, ...)."""
    while hasattr(objective, "overridden"):
        objective = objective.overridden
    return objective


def innermost(objective: Any, variables: Variables) -> tuple[Any, Variables]:
    """The objective within all wrappers, and the variables that it computes with.

    Where a wrapper predicts by other methods and cannot be merged, that wrapper.
    """
    while True:
        objective, variables = merge(objective, variables)
        if not hasattr(objective, "overridden") or hasattr(objective, "merge"):
            return objective, variables
        objective = objective.overridden


def in_precision_of(trained: Any, kept: Any) -> Any:
    """Parameters that are kept untrained, in the half precision of the trained ones, if any is.

    Mixed precision casts what is trained alone, and a model of two types computes in the wider one.
    """
    types = {leaf.dtype for leaf in jax.tree.leaves(trained)}
    half = types & {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}
    if not half:
        return kept
    return jax.tree.map(
        lambda leaf: leaf.astype(min(half, key=str)) if leaf.dtype == jnp.float32 else leaf, kept
    )
