"""A model as a pair of plain functions, `init` and `apply`, without Flax."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.paths import path_name

STATE = "state"
"""The collection that holds the state of a stateful pair."""


class Model:
    """A model made of two plain functions: `jdl.Model(init, apply)`.

    `init(key, x) -> params`, or `init(key)`, makes the parameters: any pytree of arrays of floats.
    `apply(params, x) -> out` computes the output. Where `apply` has an argument named `train`,
    `mask` or `lengths` (or another name of `docs/your-model.md`), it gets it, and so does `init`
    where it has an argument that `apply` has. An argument `key` of `apply` is a new random key in
    each training step, and None in evaluation.

    With `stateful=True` there is also a state, such as running statistics: any pytree of arrays,
    which is not trained. `init` returns `(params, state)`, and `apply(params, state, x)` returns
    `(out, state)`. A new state counts in training alone.
    """

    def __init__(
        self, init: Callable[..., Any], apply: Callable[..., Any], stateful: bool = False
    ) -> None:
        for name, function in (("init", init), ("apply", apply)):
            if not callable(function):
                raise Error(f"{name} of jdl.Model must be a function, not {function!r}.")
        self._init, self._apply, self.stateful = init, apply, stateful

    def __str__(self) -> str:
        return "jdl.Model(init, apply)"

    def init(self, rngs: Any, *inputs: Any, **options: Any) -> dict[str, Any]:
        """The initial parameters, and the state if there is one, by collection."""
        key = rngs["params"] if isinstance(rngs, Mapping) else rngs  # as Linen's init takes it
        signature = inspect.signature(self._init)
        given = {name: value for name, value in options.items() if name in signature.parameters}
        inputs = inputs if _takes_inputs(signature, options) else ()
        try:
            signature.bind(key, *inputs, **given)
        except TypeError as error:
            raise Error(
                f"init of jdl.Model cannot be called: {error}. It gets a key, the model's inputs, "
                "and by their names what apply gets, except key."
            ) from error
        made = self._init(key, *inputs, **given)
        if not self.stateful:
            return {"params": _arrays(made, "the parameters")}
        params, state = _pair(made, "init", "(params, state)")
        return {"params": _arrays(params, "the parameters"), STATE: _arrays(state, "the state")}

    def apply(
        self,
        variables: Mapping[str, Any],
        *inputs: Any,
        rngs: Mapping[str, jax.Array] | None = None,
        mutable: Any = (),
        method: str = "__call__",
        **options: Any,
    ) -> Any:
        """The output; with `mutable`, also the collections of these names after it."""
        if "key" in inspect.signature(self._apply).parameters:
            options["key"] = rngs["dropout"] if rngs else None
        changed: dict[str, Any] = {}
        if self.stateful:
            made = self._apply(variables["params"], variables[STATE], *inputs, **options)
            out, changed[STATE] = _pair(made, "apply", "(out, state)")
            _check_structure(variables[STATE], changed[STATE])
        else:
            out = self._apply(variables["params"], *inputs, **options)
        if mutable is False or mutable == ():
            return out
        return out, {name: v for name, v in changed.items() if name in mutable}

    def signature(self, method: str) -> inspect.Signature:
        """How `apply` is called after the parameters and the state, without its key."""
        if method != "__call__":
            raise Error(
                f"This objective calls the model's method {method!r}, and a jdl.Model has init and "
                "apply alone: write a module of Flax that has this method."
            )
        asked = inspect.signature(self._apply)
        first, *parameters = asked.parameters.values()
        if first.kind is not first.VAR_POSITIONAL:
            parameters = parameters[1:] if self.stateful else parameters
        return asked.replace(parameters=[p for p in parameters if p.name != "key"])


def _takes_inputs(signature: inspect.Signature, options: Mapping[str, Any]) -> bool:
    """Whether `init` has positional parameters besides its key, without a default."""
    _, *others = signature.parameters.values()
    positional = [p for p in others if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return any(p.name not in options and p.default is p.empty for p in positional)


def _pair(made: Any, function: str, expected: str) -> tuple[Any, Any]:
    if not (isinstance(made, tuple) and len(made) == 2):
        raise Error(
            f"{function} of jdl.Model(..., stateful=True) must return {expected}, and it returned "
            f"{_describe(made)}: return both, or leave out stateful."
        )
    return made


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(type(value))


def _arrays(tree: Any, what: str) -> Any:
    """The tree with JAX arrays of a fixed type as leaves, where it has Python's or NumPy's numbers.

    A weak type (that of `jnp.full(3, 0.5)`) would change at the first update, and compile anew.
    """

    def array(path: Any, leaf: Any) -> jax.Array:
        try:
            converted = jnp.asarray(leaf)
        except (TypeError, ValueError):
            name = path_name(path)
            raise Error(
                f"{name} in {what} that init of jdl.Model makes is {leaf!r}, and must be an array: "
                "keep what is not an array in the functions themselves."
            ) from None
        return converted.astype(converted.dtype)

    return jax.tree_util.tree_map_with_path(array, tree)


def _check_structure(old: Any, new: Any) -> None:
    """Raises `Error` if the new state has another structure than the old one."""
    before, after = jax.tree.structure(old), jax.tree.structure(new)
    if bool(before != after):  # type: ignore[operator]
        raise Error(
            f"apply of jdl.Model must return a state of the structure that init made, {before}, "
            f"and it returned {after}."
        )
