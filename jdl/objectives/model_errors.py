"""Checks of a model's variables, with errors in the terms of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import (
    InvalidRngError,
    ModifyScopeVariableError,
    ScopeCollectionNotFound,
    ScopeParamShapeError,
)
from flax.traverse_util import flatten_dict

from jdl.layers.frozen_batch_norm import IN_EVALUATION, IN_TRAINING, any_frozen
from jdl.objectives.model_keywords import name_of
from jdl.paths import path_name
from jdl.types import BATCH_STATS, Error, Variables

DROPOUT = "none of its dropout layers drops anything"  # what training is not
STATISTICS = "its statistics of BatchNorm do not change"


def check_params(model: Any, params: Any) -> None:
    """Raises `Error` where a parameter has no gradient."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise Error(
                f"The parameter {path_name(path)} of {name_of(model)} is {leaf.dtype}, and only "
                "floats have a gradient: keep it in the state (another collection than params, an "
                "nnx.Variable that is no nnx.Param, or the state of a stateful jdl.Model)."
            )


def check_sown(model: Any, before: Any, after: Any) -> None:
    """Raises `Error` where a Linen module sows in a collection that is kept: a tuple has grown."""
    old = flatten_dict(before)
    for (name, *path), value in flatten_dict(after).items():
        kept = old[name, *path]
        if isinstance(value, tuple) and isinstance(kept, tuple) and len(value) > len(kept):
            raise Error(
                f"{name_of(model)} sows {'/'.join(path)} in the collection {name!r}, which "
                "grows with each call, and so is no state: sow in 'intermediates', which "
                "training drops, or return it beside the output and take it in your own loss."
            )


def check_shapes(model: Any, before: Any, after: Any, when: str) -> None:
    """Raises `Error` where a leaf of two trees of the same structure differs in shape."""
    found = dict(jax.tree_util.tree_leaves_with_path(after))
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        if path in found and found[path].shape != leaf.shape:
            raise Error(
                f"The variable {path_name(path)} of {name_of(model)} has the shape {leaf.shape}, "
                f"and {found[path].shape} {when}"
            )


@contextmanager
def flax_errors(model: Any, inputs: Any, train: bool) -> Iterator[None]:
    """A context in which Flax's errors about variables say what is wrong with the model."""
    name, when = name_of(model), "training" if train else "evaluation"
    try:
        yield
    except (ModifyScopeVariableError, ScopeCollectionNotFound) as error:
        advice = (
            "create all of them when it is initialized" if train else "change them in training only"
        )
        raise Error(
            f"{name} changes variables in {when} that it cannot: {error} Let it {advice}."
        ) from error
    except ScopeParamShapeError as error:
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(inputs))
        raise Error(
            f"The parameters of {name} do not fit inputs of shape {shapes}: {error} Give it rows "
            "of the shape that it was initialized with."
        ) from error
    except InvalidRngError as error:
        raise Error(
            f"{name} draws random numbers in {when}: {error} Let it draw in training only, by an "
            "argument train, as in nn.Dropout(rate, deterministic=not train)."
        ) from error


@dataclass(eq=False)
class DropoutWatch:
    """An interceptor (`nn.intercept_methods`) that notes whether dropout is called, and drops."""

    called: bool = False
    drops: bool = False

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Calls the method."""
        layer = context.module
        if isinstance(layer, nn.Dropout) and context.method_name == "__call__" and layer.rate:
            given = args[1] if len(args) > 1 else kwargs.get("deterministic")
            self.called = True
            self.drops |= not (layer.deterministic if given is None else given)
        return call(*args, **kwargs)


def watched_call(
    model: Any, flags: Mapping[str, bool], call: Callable[..., Any], before: Variables
) -> Any:
    """`call()` in training, of a model that has boolean flags of unknown names.

    Raises `Error` where none of its dropout layers drops, or BatchNorm's statistics stay as they
    are, and would not with another value of a flag: it must mean training.
    """
    out, off, _ = _watch(call, before)
    for flag, other in flags.items() if off and not any_frozen() else ():
        if told := off & _on_with(call, before, flag, other):
            raise _unknown_flag(model, flag, other, told)
    return out


def _watch(call: Callable[..., Any], before: Variables) -> tuple[Any, set[str], set[str]]:
    """What a call gives, and what is off and on in it of what training has."""
    dropouts = DropoutWatch()
    with nn.intercept_methods(dropouts):
        out, changed = call()
    old, new = (flatten_dict(state.get(BATCH_STATS, {})) for state in (before, changed))
    means = [path for path in new if path[-1] == "mean"]
    moved = not all(new[path] is old[path] for path in means)
    seen = {DROPOUT: dropouts.drops} if dropouts.called else {}
    seen |= {STATISTICS: moved} if means else {}
    return (out, changed), {s for s in seen if not seen[s]}, {s for s in seen if seen[s]}


def _on_with(call: Callable[..., Any], before: Variables, flag: str, other: bool) -> set[str]:
    """What is on with another value of a flag; nothing where the model cannot be called so."""
    found = [set[str]()]

    def trace() -> Any:
        out, _, on = _watch(partial(call, **{flag: other}), before)
        found.append(on)
        return out

    with suppress(Exception):  # of the model with this flag, of which nobody asked: anything
        jax.eval_shape(trace)
    return found[-1]


def _unknown_flag(model: Any, flag: str, other: bool, off: set[str]) -> Error:
    symptom = " and ".join(sorted(off, reverse=True))
    names = ", ".join((*IN_TRAINING, *IN_EVALUATION))
    return Error(
        f"In training {symptom}; with {flag}={other} this would be otherwise, but jdl does not set "
        f"{flag} of {name_of(model)}. It sets the arguments {names}. If {flag} says whether the "
        "model trains, call it train. If not, give its value yourself: jdl.adapt_model(model, "
        f"inputs=lambda batch: ((batch['x'],), {{{flag!r}: {other}}}))."
    )
