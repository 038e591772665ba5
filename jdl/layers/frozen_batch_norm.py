"""Frozen batch normalization: layers whose running statistics are used and kept in training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax

# arguments that are true in training, and those that are false
IN_TRAINING = ("train", "training", "is_training", "is_train")
IN_EVALUATION = ("deterministic", "use_running_average", "inference", "eval")
AS_IN_EVALUATION = {
    **dict.fromkeys(IN_TRAINING, False),
    **dict.fromkeys(IN_EVALUATION, True),
    "update_stats": False,  # of nn.SpectralNorm
}


@dataclass(frozen=True, eq=False)
class FrozenLayers:
    """Layers by their paths in the model; `found` are those that were called as in evaluation."""

    paths: frozenset[str]
    found: set[str] = field(default_factory=set)


# JAX's caches include this context in their keys: a function that was traced outside of the context
# is traced again within it.
_frozen = jax.make_user_context(())
_network = jax.make_user_context("")  # what paths begin with: "generator/", say


@contextmanager
def called_as_in_evaluation(layers: FrozenLayers) -> Iterator[None]:
    """A context in which these layers are called as in evaluation, in training too.

    Those of Linen by their arguments or fields of the names in `AS_IN_EVALUATION`; those of NNX by
    `jdl.models.nnx`.
    """
    with _frozen((*_frozen.value, layers)), nn.intercept_methods(_call_linen):
        yield


@contextmanager
def called_as_network(name: str) -> Iterator[None]:
    """A context in which the layers' paths are those of one of several networks, by its name."""
    with _network(f"{_network.value}{name}/") if _frozen.value else nullcontext():
        yield


def any_frozen() -> bool:
    """Whether some layers are to be called as in evaluation."""
    return bool(_frozen.value)


def is_frozen(path: str) -> bool:
    """Whether the layer at this path is to be called as in evaluation."""
    return any(_network.value + path in layers.paths for layers in _frozen.value)


def found_frozen(path: str) -> None:
    """Says that the layer at this path was called as in evaluation."""
    for layers in _frozen.value:
        layers.found.add(_network.value + path)


def _call_linen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Calls a method of a Linen module, of a frozen layer as in evaluation."""
    layer = context.module
    if layer.scope is None or not is_frozen(path := "/".join(layer.path)):
        return call(*args, **kwargs)
    signature = inspect.signature(context.orig_method)
    arguments = signature.bind_partial(*args, **kwargs)
    with ExitStack() as stack:
        for name, value in AS_IN_EVALUATION.items():
            if name in layer.__dataclass_fields__ and getattr(layer, name) is not None:
                # As in nn.BatchNorm(use_running_average=not train). A module's fields are frozen.
                stack.callback(object.__setattr__, layer, name, getattr(layer, name))
                object.__setattr__(layer, name, value)
            elif name in signature.parameters:
                arguments.arguments[name] = value
            else:
                continue
            found_frozen(path)
        return call(*arguments.args, **arguments.kwargs)
