"""What cannot be converted to ONNX, found in a program before anything is installed or begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from jdl.export.program import Program, symbolic_shapes
from jdl.layers.platform import plain_implementations
from jdl.objectives.input_ranges import RANGE
from jdl.types import Array, Error

Equation = tuple[JaxprEqn, bool]  # and whether it is in a loop


def check_convertible(program: Program) -> None:
    """Raises `Error` where a program cannot become ONNX, with the reason.

    What no output needs is no reason: a random key, say.
    """
    why = None
    if program.name in ("prefill", "decode"):
        why = "writes text, and in ONNX the time is fixed, and with it the KV cache"
    elif any(path.rpartition("/")[2] == RANGE for path in program.weights):
        why = "rounds what its layers read to 8 bits, where ONNX Runtime rounds to the other side"
    else:
        found = list(_equations(_needed(program), False))
        why = next((why for is_so, why in REASONS if any(map(is_so, found))), None)
    if why is not None:
        raise Error(
            f"The program {program.name} {why}. Export it to StableHLO, without --format: it runs "
            "wherever JAX does, and jdl serve serves it."
        )


def _has_key(equation: Equation) -> bool:
    variables = (*equation[0].invars, *equation[0].outvars)
    types = (getattr(variable.aval, "dtype", bool) for variable in variables)
    return any(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) for dtype in types)


def _is_fourier(equation: Equation) -> bool:
    """A Fourier transform that is not one of products of matrices, as `power_spectrum` is there."""
    return equation[0].primitive.name == "fft"


def _is_backwards(equation: Equation) -> bool:
    return equation[0].primitive.name == "scan" and bool(equation[0].params["reverse"])


def _writes_in_a_loop(equation: Equation) -> bool:
    """A part of an array that is written in a loop, as a KV cache is, at each step."""
    kinds = ("dynamic_update_slice", "scatter")
    return equation[1] and equation[0].primitive.name.startswith(kinds)


def _scatters_by_row(equation: Equation) -> bool:
    """A scatter in each row of the batch: `jax.vmap(lambda row, i: row.at[i].set(...))`."""
    numbers = equation[0].params.get("dimension_numbers")
    return equation[0].primitive.name.startswith("scatter") and bool(
        getattr(numbers, "operand_batching_dims", ())
    )


REASONS: tuple[tuple[Callable[[Equation], bool], str], ...] = (
    (_is_fourier, "has a Fourier transform, which is not converted for a batch of any size"),
    (_has_key, "draws random numbers, or a loop of it has a key for them, and ONNX has others"),
    (_is_backwards, "has a loop from the last step to the first, as the marginals of a CRF have"),
    (_writes_in_a_loop, "decodes in a loop with a KV cache, whose shapes ONNX Runtime refuses"),
    (_scatters_by_row, "scatters into each row of a batch of any size, which is not converted"),
)
"""What an equation of a program may not have, and what is said of the program then."""


def _needed(program: Program) -> Jaxpr:
    """The equations that the outputs need, of JAX's own primitives; weights are arguments."""
    specs = symbolic_shapes(program.fixed_time())

    def outputs(weights: dict[str, Array], columns: dict[str, Array]) -> Any:
        return program.function(weights, columns)

    with plain_implementations():
        jaxpr = jax.make_jaxpr(outputs)(program.weights, specs).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return needed


def _equations(jaxpr: Jaxpr, in_loop: bool) -> Iterator[Equation]:
    """All equations, those within others too."""
    for equation in jaxpr.eqns:
        yield equation, in_loop
        inner = in_loop or equation.primitive.name in ("scan", "while")
        for one in jaxprs_in_params(equation.params):
            yield from _equations(one, inner)
