"""Flax NNX modules as models: split once into pure functions, as Linen modules are."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from traceback import walk_tb
from typing import Any

import flax.nnx
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers.frozen_batch_norm import found_frozen, is_frozen
from jdl.layers.nnx_calls import intercepted

COLLECTIONS = {"params": flax.nnx.Param, "batch_stats": flax.nnx.BatchStat, "state": ...}
"""What the variables of an NNX module are in: parameters, BatchNorm's statistics, all others."""


def nnx(make: Callable[[flax.nnx.Rngs], flax.nnx.Module]) -> NNXModel:
    """A model made of a Flax NNX module: `nnx(lambda rngs: Net(rngs=rngs))`.

    `make` creates the module from its random streams. In training the module is in its `train()`
    mode, with new keys for its random streams in every step, and in evaluation in its `eval()`
    mode. Its variables are parameters (`nnx.Param`), statistics of BatchNorm (`nnx.BatchStat`) or
    any other state, which a call may change. What it sows as `nnx.Intermediate` is dropped.
    """
    cure = "give the function that makes it from its random streams, lambda rngs: Net(rngs=rngs)."
    if isinstance(make, flax.nnx.Module):
        raise Error(f"jdl.nnx takes no module ({type(make).__name__}) that is made already: {cure}")
    streams = object()  # true ones would start JAX, too early for a run of several processes
    try:
        # a class's own signature is (*args, **kwargs), because of its metaclass
        if isinstance(make, type):
            inspect.signature(vars(make).get("__init__", make)).bind(make, streams)
        else:
            inspect.signature(make).bind(streams)
    except TypeError as error:
        raise Error(f"jdl.nnx calls its function with nnx.Rngs alone ({error}): {cure}") from error
    return NNXModel(make)


class NNXModel:
    """A Flax NNX module with the pure functions `init` and `apply` of a Linen module; see `nnx`."""

    def __init__(self, make: Callable[[flax.nnx.Rngs], flax.nnx.Module]) -> None:
        self.make = make

    def init(self, rngs: Any, *inputs: Any, **options: Any) -> dict[str, Any]:
        """The initial variables by collection; the inputs are not needed."""
        return self._collections(self.make(flax.nnx.Rngs(_params_key(rngs))))

    def apply(
        self,
        variables: Mapping[str, Any],
        *inputs: Any,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        mutable: Sequence[str] = (),
        method: str = "__call__",
        **options: Any,
    ) -> Any:
        """The output of a method; with `mutable`, also the collections of these names after it."""
        key = rngs["dropout"] if rngs else jax.random.key(0)
        module = self._module(variables, key)
        module.train() if train else module.eval()
        if "train" in self._asked(method).parameters:
            options["train"] = train
        kept = _keep_statistics(module) if train else {}
        with _layer_errors(module, str(self), inputs), intercepted(module):
            out = getattr(module, method)(*inputs, **options)
        for path, (layer, before) in kept.items():
            if all(map(operator.is_, _statistics(layer), before)):  # else its call had its way
                found_frozen(path)
        if mutable is False or mutable == ():
            return out
        after = self._collections(module)
        if late := after.keys() - variables.keys() - {"params"}:
            raise Error(
                f"{self} creates variables of the kind {min(late)!r} when it is called: create all "
                "of them in __init__."
            )
        return out, {name: v for name, v in after.items() if name in mutable}

    def __str__(self) -> str:
        return type(self._abstract).__name__

    def signature(self, method: str) -> inspect.Signature:
        """How `apply` is called for this method: with what it asks for, and `train`."""
        asked = self._asked(method)
        parameters = [p for p in asked.parameters.values() if p.name != "train"]
        if isinstance(self._abstract, flax.nnx.Sequential):  # whose ** are for its first layer
            parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        train = inspect.Parameter("train", inspect.Parameter.KEYWORD_ONLY, default=False)
        return asked.replace(parameters=sorted([*parameters, train], key=lambda p: p.kind))

    def _asked(self, method: str) -> inspect.Signature:
        """The signature of a method, without self."""
        signature = inspect.signature(getattr(type(self._abstract), method))
        _, *parameters = signature.parameters.values()
        return signature.replace(parameters=parameters)

    @cached_property
    def _abstract(self) -> Any:
        """The module without arrays."""
        module = flax.nnx.eval_shape(lambda: self.make(flax.nnx.Rngs(0)))
        if not isinstance(module, flax.nnx.Module):
            raise Error(
                f"The function of jdl.nnx must return an NNX module, and it gives "
                f"{type(module).__name__}: write jdl.nnx(lambda rngs: Net(rngs=rngs))."
            )
        return module

    def _module(self, variables: Mapping[str, Any], key: jax.Array) -> Any:
        """The module with these variables, and its random streams from this key."""
        graph, rng, states = _split(self._abstract)
        leaves, tree = jax.tree.flatten(rng)
        keys = [_key_or_count(jax.random.fold_in(key, n), leaf) for n, leaf in enumerate(leaves)]
        filled = [_fill(state, variables.get(name, {})) for name, state in states.items()]
        return flax.nnx.merge(graph, jax.tree.unflatten(tree, keys), *filled)

    def _collections(self, module: Any) -> dict[str, Any]:
        """The module's variables by collection, without its random streams."""
        _, _, states = _split(module)
        found = {name: _to_dict(state) for name, state in states.items()}
        return {"params": {}} | {name: variables for name, variables in found.items() if variables}


@contextmanager
def _layer_errors(module: Any, name: str, inputs: Any) -> Iterator[None]:
    """A context in which an error within one of Flax's layers names the layer, by its path."""
    try:
        yield
    except (TypeError, ValueError) as error:
        callers = (frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__))
        layer = [caller for caller in callers if isinstance(caller, flax.nnx.Module)][-1:]
        paths = {id(x): "/".join(map(str, path)) for path, x in flax.nnx.iter_modules(module)}
        if not layer or not type(layer[0]).__module__.startswith("flax."):
            raise
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(inputs))
        raise Error(
            f"The layer {paths.get(id(layer[0])) or 'itself'} (nnx.{type(layer[0]).__name__}) of "
            f"{name} cannot take what it is given, for inputs of shape {shapes}: {error} Give the "
            "model inputs of the width that the layer was made for, or make it for theirs."
        ) from error


def _keep_statistics(module: Any) -> dict[str, tuple[Any, list[jax.Array]]]:
    """Sets frozen layers to evaluation; gives them by path, with their statistics."""
    layers = {"/".join(map(str, path)): x for path, x in flax.nnx.iter_modules(module)}
    frozen = {path: layer for path, layer in layers.items() if is_frozen(path)}
    for layer in frozen.values():
        layer.eval()
    return {path: (layer, _statistics(layer)) for path, layer in frozen.items()}


def _statistics(layer: Any) -> list[jax.Array]:
    return jax.tree.leaves(flax.nnx.state(layer, flax.nnx.BatchStat))


def _key_or_count(key: jax.Array, leaf: Any) -> jax.Array:
    """What a random stream holds: a key, keys (after `nnx.split_rngs`), or how often it drew."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return jax.random.split(key, leaf.shape) if leaf.shape else key


def _params_key(rngs: Any) -> jax.Array:
    """The key of the parameters: `init` takes it alone or by name, as Linen's does."""
    return rngs["params"] if isinstance(rngs, Mapping) else rngs


def _split(module: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The module's graph, its random streams, and its states by collection."""
    parts: Any = flax.nnx.split(module, flax.nnx.RngState, *COLLECTIONS.values())
    graph, rng, *states = parts
    return graph, rng, dict(zip(COLLECTIONS, states, strict=True))


def _to_dict(state: Any) -> dict[str, Any]:
    """A state as nested dicts with keys of text: layers in a list are "0", "1", ..."""
    nested: dict[str, Any] = {}
    for path, variable in flax.nnx.to_flat_state(state):
        *parents, last = map(str, path)
        if isinstance(variable.get_value(), tuple):  # it grows with each `sow`, and is no state
            if (
                isinstance(variable, flax.nnx.Intermediate)
                or variable.type is flax.nnx.Intermediate
            ):
                continue
            raise Error(
                f"The module sows {'/'.join(map(str, path))} as {variable.type.__name__}, which is "
                "no state: sow it as nnx.Intermediate, which training drops, or return it beside "
                "the output and take it in your own loss."
            )
        inner = nested
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = variable[...]
    return nested


def _fill(state: Any, nested: Mapping[str, Any]) -> Any:
    """The state with the arrays of nested dicts."""

    def array(path: tuple[Any, ...]) -> Any:
        inner: Any = nested
        for name in map(str, path):
            inner = inner[name]
        return inner

    flat = [(path, v.replace(array(path))) for path, v in flax.nnx.to_flat_state(state)]
    return flax.nnx.from_flat_state(flat)
