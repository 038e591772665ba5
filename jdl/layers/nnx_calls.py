"""Calls of the layers of NNX models, intercepted as those of Linen modules can be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax.nnx

CALL = "__call__"
Intercept = Callable[[str, flax.nnx.Module, Sequence[Any], Any], Any]
_INTERCEPT: ContextVar[Intercept | None] = ContextVar("intercept", default=None)


@contextmanager
def intercept_calls(seen: Intercept) -> Iterator[None]:
    """Within the block each call of a layer of an NNX model gives what `seen` makes of its output.

    As `flax.linen.intercept_methods` has it: `seen(path, layer, inputs, output)` gives the output.
    """
    token = _INTERCEPT.set(seen)
    try:
        yield
    finally:
        _INTERCEPT.reset(token)


@contextmanager
def intercepted(module: Any) -> Iterator[None]:
    """A context in which the classes of the module's layers have the calls of `intercept_calls`.

    It changes the classes while it lasts, and so is not for several threads.
    """
    if (seen := _INTERCEPT.get()) is None:
        yield
        return
    layers = [("/".join(map(str, path)), layer) for path, layer in flax.nnx.iter_modules(module)]
    paths = {id(layer): path for path, layer in layers}
    running: set[int] = set()  # a call of the class above, by super(), is part of the layer's own

    def with_seen(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(layer: Any, *inputs: Any, **options: Any) -> Any:
            if id(layer) in running:
                return call(layer, *inputs, **options)
            running.add(id(layer))
            try:
                output = call(layer, *inputs, **options)
            finally:
                running.remove(id(layer))
            given = (*inputs, *options.values())
            return seen(paths.get(id(layer), "a layer"), layer, given, output)

        return called

    # Python looks `__call__` up in the class. Each class that defines it is replaced once: a class
    # that inherits it has that of the class above.
    classes = {each for _, layer in layers for each in type(layer).__mro__}
    calls = {each: vars(each)[CALL] for each in classes if CALL in vars(each)}
    try:
        for each, call in calls.items():
            setattr(each, CALL, with_seen(call))
        yield
    finally:
        for each, call in calls.items():
            setattr(each, CALL, call)
