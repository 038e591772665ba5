"""Activations within a traced function: those of ReLUs, and what products and convolutions give.

A traced function is computed operation by operation, and so models of Flax Linen, NNX and plain
functions are all the same; the bodies of loops (scan) are not looked into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

PRODUCTS = ("dot_general", "conv_general_dilated")
CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
STOP_GRADIENT, RELU = "stop_gradient", "max"  # primitives; of a maximum only that with 0
NO_RELU = ("softplus", "logaddexp", "log_sigmoid", "clip")  # they compute a maximum too


@dataclass(frozen=True)
class Activations:
    """Activations in the order of the computation, by the scope in which they are."""

    relus: list[str] = field(default_factory=list)  # scopes
    dead: list[Any] = field(default_factory=list)  # shares of a ReLU's units that are always 0
    zeros: list[Any] = field(default_factory=list)  # shares of zeros
    products: list[str] = field(default_factory=list)  # scopes
    sizes: list[Any] = field(default_factory=list)  # root mean squares of what products give


def activations(function: Callable[..., Any], *args: Any) -> Activations:
    """The activations within a function of these arguments."""
    closed = jax.make_jaxpr(function)(*args)
    traced: list[Activations] = []

    @jax.jit
    def compute(*leaves: Any) -> Any:
        found = Activations()
        _run(closed.jaxpr, closed.consts, leaves, "", found)
        traced.append(found)
        return found.dead, found.zeros, found.sizes

    numbers = jax.tree.map(float, compute(*jax.tree.leaves(args)))
    dead, zeros, sizes = numbers
    return Activations(traced[-1].relus, dead, zeros, traced[-1].products, sizes)


def let_pass(primitive: str, function: Callable[..., Any], *args: Any) -> Any:
    """A number that a function computes where each `stop_gradient`, or ReLU, is the identity."""
    closed = jax.make_jaxpr(function)(*args)
    leaves = jax.tree.leaves(args)
    return _run(closed.jaxpr, closed.consts, leaves, "", Activations(), skip=primitive)[0]


def _run(
    jaxpr: Jaxpr, consts: Any, args: Any, scope: str, found: Activations, skip: str = ""
) -> list[Any]:
    """Computes a jaxpr with the operation `skip` as the identity, and collects its activations."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        here = f"{scope}/{equation.source_info.name_stack}"
        inner = _inner(equation)
        if inner is not None:
            outputs = _run(inner[0], inner[1], inputs, here, found, skip)
        elif equation.primitive.name == skip and (passed := _passed(skip, inputs)):
            outputs = passed
        else:
            params = equation.primitive.get_bind_params(equation.params)
            outputs = equation.primitive.bind(*inputs, **params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
            _collect(equation.primitive.name, inputs, outputs[0], here, found)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _passed(primitive: str, inputs: list[Any]) -> list[Any]:
    """What goes through a `stop_gradient` or a ReLU; nothing of another maximum."""
    if primitive != RELU:
        return inputs
    others = [x for x in inputs if not _is_zero(x)]
    return others if len(others) == 1 else []


def _inner(equation: Any) -> tuple[Jaxpr, Any] | None:
    """The jaxpr and constants of a call that is looked into."""
    name = equation.primitive.name
    if name not in CALLS or equation.params.get("name") in NO_RELU:
        return None
    inner = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
    if isinstance(inner, ClosedJaxpr):
        return inner.jaxpr, inner.consts
    return (inner, ()) if isinstance(inner, Jaxpr) else None


def _collect(name: str, inputs: list[Any], out: Any, scope: str, found: Activations) -> None:
    if not (hasattr(out, "ndim") and out.ndim > 1 and jnp.issubdtype(out.dtype, jnp.floating)):
        return
    if name in PRODUCTS:
        found.products.append(scope)
        found.sizes.append(jnp.sqrt(jnp.mean(jnp.square(out.astype(jnp.float32)))))
    elif name == "max" and any(map(_is_zero, inputs)):
        off = out <= 0
        found.relus.append(scope)
        found.dead.append(jnp.mean(off.all(range(out.ndim - 1)), dtype=jnp.float32))
        found.zeros.append(jnp.mean(off, dtype=jnp.float32))


def _is_zero(value: Any) -> bool:
    """Whether an operand is the constant 0."""
    return not isinstance(value, jax.core.Tracer) and not np.any(np.asarray(value))
